//! Which entries `logs` shows.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Seek, SeekFrom},
};

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

/// The end of a log.
#[derive(Debug)]
pub struct End {
    /// The entries of the last lines.
    pub entries: Vec<Entry<'static>>,
    /// Lines that are damaged.
    pub damaged: u64,
    /// The newest file, which is read next behind the last of these.
    pub newest: Option<File>,
}

/// The last `count` lines of those that are to be shown. Files are read from the newest on, and no more of them than needed.
///
/// # Errors
/// That of read(2).
pub fn last_lines(files: Vec<File>, selection: &Selection, count: usize) -> io::Result<End> {
    let mut end = End { entries: Vec::new(), damaged: 0, newest: None };
    let mut lines = 0;
    for mut file in files.into_iter().rev() {
        if lines >= count && end.newest.is_some() {
            break;
        }
        let wanted = count.saturating_sub(lines);
        let mut tail = Tail::default();
        let mut pass = Pass::new(vec![file.try_clone()?]);
        while let Some(entry) = pass.next_entry()? {
            if selection.shows(&entry) {
                // What follows in newer files may complete the last line of this one.
                tail.push(entry, wanted.saturating_add(1));
            }
        }
        end.damaged += pass.damaged;
        let mut entries: Vec<_> = tail.entries.into();
        entries.append(&mut end.entries);
        end.entries = entries;
        lines = line_count(&end.entries);
        if end.newest.is_none() {
            file.seek(SeekFrom::Start(pass.consumed))?;
            end.newest = Some(file);
        }
    }
    let mut tail = Tail::default();
    for entry in end.entries {
        tail.push(entry, count);
    }
    end.entries = tail.entries.into();
    Ok(end)
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
        logs::{Follow, LogWriter, Next, Stream, open_all},
        settings::LogLimits,
        size::MemorySize,
    };

    fn tail(dir: &std::path::Path, count: usize) -> String {
        let selection = Selection::default();
        let end = last_lines(open_all(dir).unwrap(), &selection, count).unwrap();
        assert_eq!(end.damaged, 0);
        end.entries.iter().map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned()).collect()
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
        let end = last_lines(open_all(dir.path()).unwrap(), &Selection::default(), 0).unwrap();
        let mut follow = Follow::new(dir.path(), vec![end.newest.unwrap()]).unwrap();
        assert!(matches!(follow.next_entry().unwrap(), Next::Nothing));
        log.append(Stream::Stdout, b"> typed\n", Timestamp::now()).unwrap();
        assert!(
            matches!(follow.next_entry().unwrap(), Next::Entry(e) if *e.bytes == *b"> typed\n")
        );
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
