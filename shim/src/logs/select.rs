//! Which entries `logs` shows.

use std::{collections::VecDeque, fs::File, io};

use jiff::Timestamp;

use super::{Entry, Pass};

/// What is to be shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection {
    /// Nothing before this.
    pub since: Option<Timestamp>,
    /// Nothing from this on.
    pub until: Option<Timestamp>,
}

impl Selection {
    /// Whether the entry is to be shown.
    #[must_use]
    pub fn shows(&self, entry: &Entry<'_>) -> bool {
        self.since.is_none_or(|since| entry.time >= since) && !self.is_over(entry.time)
    }

    /// Whether nothing from this time on is to be shown.
    #[must_use]
    pub fn is_over(&self, time: Timestamp) -> bool {
        self.until.is_some_and(|until| time >= until)
    }
}

/// The entries of the last `count` lines of those that are to be shown, and how many damaged lines were met. Files are read from the newest on,
/// and no more of them than needed.
///
/// # Errors
/// That of read(2).
pub fn last_lines(
    files: Vec<File>,
    selection: &Selection,
    count: usize,
) -> io::Result<(Vec<Entry<'static>>, u64)> {
    let (mut found, mut lines, mut damaged) = (Vec::new(), 0, 0);
    for file in files.into_iter().rev() {
        if lines >= count {
            break;
        }
        let wanted = count - lines;
        let mut tail = Tail::default();
        let mut pass = Pass::new(vec![file]);
        while let Some(entry) = pass.next_entry()? {
            if selection.shows(&entry) {
                // What follows in newer files may complete the last line of this one.
                tail.push(entry, wanted + 1);
            }
        }
        damaged += pass.damaged;
        let mut entries: Vec<_> = tail.entries.into();
        entries.append(&mut found);
        found = entries;
        lines = line_count(&found);
    }
    let mut tail = Tail::default();
    for entry in found {
        tail.push(entry, count);
    }
    Ok((tail.entries.into(), damaged))
}

/// Lines; one that goes on counts as one.
fn line_count(entries: &[Entry<'_>]) -> usize {
    let ended = entries.iter().filter(|entry| entry.ends_line()).count();
    ended + usize::from(entries.last().is_some_and(|entry| !entry.ends_line()))
}

/// The last lines of a sequence of entries.
#[derive(Debug, Default)]
struct Tail {
    entries: VecDeque<Entry<'static>>,
    ended: usize,
}

impl Tail {
    fn push(&mut self, entry: Entry<'static>, count: usize) {
        let open = usize::from(!entry.ends_line());
        self.ended += 1 - open;
        self.entries.push_back(entry);
        while self.ended + open > count {
            match self.entries.pop_front() {
                Some(first) => self.ended -= usize::from(first.ends_line()),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        logs::{LogWriter, Stream, open_all},
        settings::LogLimits,
        size::MemorySize,
    };

    fn tail(dir: &std::path::Path, count: usize) -> String {
        let selection = Selection::default();
        let (entries, damaged) = last_lines(open_all(dir).unwrap(), &selection, count).unwrap();
        assert_eq!(damaged, 0);
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned()).collect()
    }

    #[test]
    fn the_last_lines_are_found_over_files_and_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_size: MemorySize(500), max_file: 50 };
        let mut log = LogWriter::open(dir.path(), limits).unwrap();
        let mut write =
            |text: &str| log.append(Stream::Stdout, text.as_bytes(), Timestamp::now()).unwrap();
        for number in 0..50 {
            write(&format!("line {number} "));
            write("goes on\n");
        }
        assert_eq!(tail(dir.path(), 0), "");
        assert_eq!(tail(dir.path(), 1), "line 49 goes on\n");
        assert_eq!(tail(dir.path(), 3), "line 47 goes on\nline 48 goes on\nline 49 goes on\n");
        assert_eq!(tail(dir.path(), 1000).lines().count(), 50);
        write("prompt");
        assert_eq!(tail(dir.path(), 1), "prompt");
        assert_eq!(tail(dir.path(), 2), "line 49 goes on\nprompt");
    }

    #[test]
    fn since_and_until_bound_the_times() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let entry = |second| Entry {
            time: at(second),
            stream: Stream::Stdout,
            bytes: b"x".as_slice().into(),
        };
        let selection = Selection { since: Some(at(10)), until: Some(at(20)) };
        let shown: Vec<_> = [9, 10, 19, 20].map(|s| selection.shows(&entry(s))).into();
        assert_eq!(shown, [false, true, true, false]);
        assert!(Selection::default().shows(&entry(0)));
    }
}
