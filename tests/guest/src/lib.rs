//! How a file is told in one line; the probe prints it inside a container, a test writes it from the image's layers.

use std::fmt::{self, Write};

/// Lower-case hexadecimal digits of these bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A path or target in ASCII without blanks: other bytes and `%` as `%xx`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

/// One file of a tree. Its [`fmt::Display`] is one line of words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLine {
    /// The path from the root, without a leading slash; empty for the root itself.
    pub path: Vec<u8>,
    /// `f`, `d`, `l`, `p`, `c`, `b` or `s`.
    pub kind: char,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; 0 for a directory, whose size is the file system's own.
    pub size: u64,
    /// Seconds and nanoseconds of the epoch.
    pub mtime: (i64, u32),
    /// What kind says: the SHA-256 of a file, the escaped target of a link, `major:minor` of a device, else `-`.
    pub content: String,
    /// The first path, in byte order, of those that are the same file; empty when this is the only one.
    pub same_as: Vec<u8>,
    /// Extended attributes in the order of their names.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl fmt::Display for FileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, mode, uid, gid, size, mtime: (seconds, nanoseconds), content, .. } = self;
        let path = escape(&self.path);
        let same = escape(&self.same_as);
        write!(
            f,
            "/{path} {kind} {mode:04o} {uid}:{gid} {size} {seconds}.{nanoseconds:09} {content}"
        )?;
        write!(f, " ={same}")?;
        for (name, value) in &self.xattrs {
            write!(f, " {}={}", escape(name.as_bytes()), hex(value))?;
        }
        Ok(())
    }
}
