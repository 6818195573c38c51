//! What a container writes, kept on disk: written by its keeper, read by `logs`.
//!
//! The format is docker's json-file: a line of JSON for each line of output, `{"log":"…\n","stream":"stdout","time":"…"}`. An entry whose `log`
//! does not end in a newline goes on in the next one of its stream. Bytes that are no UTF-8 stand in `bytes` as base64, and `log` shows
//! them with replacement characters. A file that has reached its size is put aside as `container.log.1`, the one before it as `.2`, and
//! so on; the oldest goes.

mod entry;
mod follow;
mod read;
mod select;
mod time;
mod write;

pub use entry::{Entry, Stream};
pub use follow::{Follow, Next};
pub use read::{Pass, open_all};
pub use select::{End, Selection, last_lines};
pub use time::parse as parse_time;
pub use write::{LogWriter, Trouble};

use std::path::{Path, PathBuf};

/// The file that is written; older ones have a number behind it.
pub const FILE: &str = "container.log";

/// The log file `number` in a container's directory; 0 is the one that is written.
#[must_use]
pub fn file(directory: &Path, number: u32) -> PathBuf {
    match number {
        0 => directory.join(FILE),
        number => directory.join(format!("{FILE}.{number}")),
    }
}

#[cfg(test)]
mod testing {
    use std::path::Path;

    use super::{Pass, open_all};

    /// All bytes that a log holds, whatever stream they are of.
    pub(super) fn text(directory: &Path) -> Vec<u8> {
        let mut pass = Pass::new(open_all(directory).unwrap());
        let mut bytes = Vec::new();
        while let Some(entry) = pass.next_entry().unwrap() {
            bytes.extend_from_slice(&entry.bytes);
        }
        assert_eq!(pass.damaged, 0);
        bytes
    }
}
