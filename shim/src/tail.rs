//! The end of a log.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// Only so much of a log's end is read.
const MOST: u64 = 16 << 10;

/// The last line that is `wanted` of those at a file's end; none, too, where it cannot be read.
pub(crate) fn last_line(path: &Path, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST))).ok()?;
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| wanted(line)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_log_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last_line(&log, |_| true), None);
        std::fs::write(&log, format!("early\n{}\nlate\n\nlast\n", "x".repeat(1 << 20))).unwrap();
        assert_eq!(last_line(&log, |_| true).as_deref(), Some("last"));
        assert_eq!(last_line(&log, |line| line.starts_with("lat")).as_deref(), Some("late"));
        assert_eq!(last_line(&log, |line| line == "early"), None);
    }
}
