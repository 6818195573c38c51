//! The writing side: a container's keeper.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{Entry, FILE, Stream, file};
use crate::settings::LogLimits;

/// The longest entry, as docker cuts lines.
const ENTRY: usize = 16 << 10;
/// How far a torn line at the end of a file may reach back.
const LONGEST_LINE: u64 = 256 << 10;
/// So many bytes must have been kept after trouble before trouble is news again: a disk that is nearly full takes an entry now and then.
const RECOVERED: u64 = 1 << 20;

/// Writes a log.
#[derive(Debug)]
pub struct LogWriter {
    directory: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
    buffer: Vec<u8>,
    /// Bytes of output that had no room on the disk since the last entry that had.
    dropped: u64,
    /// Bytes that were kept since trouble was told; `None` when it never was.
    kept: Option<u64>,
}

/// The log cannot be written, so that output gets lost. Told once, until it could be written again for a while.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot be written, and what the container writes is not kept until it can: {0}")]
pub struct Trouble(#[from] io::Error);

impl LogWriter {
    /// Opens the log in a container's directory, making it if it is not there. A line that a lost machine left unfinished is cut off.
    ///
    /// # Errors
    /// A file that cannot be made or read.
    pub fn open(directory: &Path, limits: LogLimits) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(file(directory, 0))?;
        let size = whole_lines(&file)?;
        file.set_len(size)?;
        let directory = directory.to_owned();
        Ok(Self { directory, limits, file, size, buffer: Vec::new(), dropped: 0, kept: None })
    }

    /// Appends what was read from a container at one time: one write(2), or one for each file if the log is rotated in between.
    ///
    /// # Errors
    /// [`Trouble`] for the first output that is not kept; later output is dropped in silence, until an entry of the log itself says how much.
    pub fn append(&mut self, stream: Stream, bytes: &[u8], time: Timestamp) -> Result<(), Trouble> {
        if self.dropped > 0 {
            let lost =
                format!("{} bytes were not kept: the log could not be written\n", self.dropped);
            self.push(&Entry { time, stream: Stream::Keeper, bytes: lost.as_bytes().into() });
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in line.chunks(ENTRY) {
                self.push(&Entry { time, stream, bytes: piece.into() });
            }
        }
        match self.flush() {
            Ok(()) => {
                self.dropped = 0;
                self.kept = self.kept.map(|kept| kept.saturating_add(bytes.len() as u64));
                Ok(())
            }
            Err(error) => {
                self.dropped += bytes.len() as u64;
                let is_news = self.kept.is_none_or(|kept| kept >= RECOVERED);
                self.kept = Some(0);
                if is_news { Err(error.into()) } else { Ok(()) }
            }
        }
    }

    /// Adds an entry to the batch; begins a new file before one that does not fit.
    fn push(&mut self, entry: &Entry<'_>) {
        let before = self.buffer.len();
        entry.encode(&mut self.buffer);
        let total = self.size + self.buffer.len() as u64;
        if total <= self.limits.max_size.0 || (self.size == 0 && before == 0) {
            return;
        }
        let entry = self.buffer.split_off(before);
        // A batch that cannot be written is in the buffer still, and fails again with the rest of it.
        if self.flush().is_ok() && self.rotate().is_ok() {
            self.size = 0;
        }
        self.buffer.extend_from_slice(&entry);
    }

    /// Writes the batch as a whole or not at all.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.buffer);
        match written {
            Ok(()) => self.size += self.buffer.len() as u64,
            // A part of the batch may have had room. If it cannot be cut off either, readers meet one damaged line.
            Err(_) => drop(self.file.set_len(self.size)),
        }
        self.buffer.clear();
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let staged = self.directory.join(format!(".{FILE}.new"));
        let new = File::options()
            .read(true)
            .append(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&staged)?;
        new.set_len(0)?;
        let path = |number| file(&self.directory, number);
        for number in (1..self.limits.max_file.max(1)).rev() {
            match fs::rename(path(number - 1), path(number)) {
                // A keeper may have been killed between two of these.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&staged, path(0))?;
        self.file = new;
        Ok(())
    }
}

/// Where the last line that is whole ends.
fn whole_lines(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LONGEST_LINE);
    let mut end = vec![0; usize::try_from(length - start).unwrap_or(0)];
    file.read_exact_at(&mut end, start)?;
    let newline = end.iter().rposition(|byte| *byte == b'\n');
    Ok(newline.map_or(start, |at| start + at as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{logs::testing::text, size::MemorySize};

    fn limits(max_size: u64, max_file: u32) -> LogLimits {
        LogLimits { max_size: MemorySize(max_size), max_file }
    }

    #[test]
    fn output_comes_back_byte_for_byte_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), limits(8000, 1000)).unwrap();
        let mut all = Vec::new();
        for round in 0..300_usize {
            let line: Vec<u8> =
                (0..round * 7 % 900).map(|i| u8::try_from(i * round % 251).unwrap()).collect();
            log.append(Stream::Stdout, &line, Timestamp::now()).unwrap();
            all.extend_from_slice(&line);
        }
        assert!(file(dir.path(), 10).exists());
        assert!(text(dir.path()) == all, "the bytes are not the same");
        for number in 0..10 {
            let size = fs::metadata(file(dir.path(), number)).unwrap().len();
            assert!(size <= 8000, "{number}: {size}");
        }
    }

    #[test]
    fn only_so_many_files_are_kept() {
        for kept in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogWriter::open(dir.path(), limits(300, kept)).unwrap();
            for number in 0..100 {
                let line = format!("line {number}\n");
                log.append(Stream::Stdout, line.as_bytes(), Timestamp::now()).unwrap();
            }
            let names = fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(names, kept as usize);
            let kept_text = String::from_utf8(text(dir.path())).unwrap();
            assert!(kept_text.ends_with("line 99\n"), "{kept_text}");
        }
    }

    #[test]
    fn a_gap_between_files_loses_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), limits(300, 10)).unwrap();
        let mut lines = Vec::new();
        for number in 0..20 {
            let line = format!("line {number}\n");
            log.append(Stream::Stdout, line.as_bytes(), Timestamp::now()).unwrap();
            lines.push(line);
        }
        // As if the keeper had been killed after the first rename of a rotation.
        let oldest = (1..10).rev().find(|number| file(dir.path(), *number).exists()).unwrap();
        fs::rename(file(dir.path(), oldest), file(dir.path(), oldest + 1)).unwrap();
        let mut log = LogWriter::open(dir.path(), limits(300, 10)).unwrap();
        for number in 20..30 {
            let line = format!("line {number}\n");
            log.append(Stream::Stdout, line.as_bytes(), Timestamp::now()).unwrap();
            lines.push(line);
        }
        let kept = String::from_utf8(text(dir.path())).unwrap();
        assert!(lines.concat().ends_with(&kept) && kept.lines().count() >= 15, "{kept}");
    }

    #[test]
    fn a_torn_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), LogLimits::default()).unwrap();
        log.append(Stream::Stdout, b"whole\n", Timestamp::now()).unwrap();
        log.file.write_all(b"{\"log\":\"torn").unwrap();
        assert_eq!(text(dir.path()), b"whole\n");
        let mut log = LogWriter::open(dir.path(), LogLimits::default()).unwrap();
        log.append(Stream::Stdout, b"next\n", Timestamp::now()).unwrap();
        assert_eq!(text(dir.path()), b"whole\nnext\n");
    }

    #[test]
    fn a_full_disk_is_told_once_and_later_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), LogLimits::default()).unwrap();
        log.append(Stream::Stdout, b"before\n", Timestamp::now()).unwrap();
        let good = std::mem::replace(
            &mut log.file,
            File::options().write(true).open("/dev/full").unwrap(),
        );
        let error = log.append(Stream::Stdout, b"lost\n", Timestamp::now()).unwrap_err();
        assert!(error.to_string().contains("not kept"), "{error}");
        log.append(Stream::Stdout, b"lost too\n", Timestamp::now()).unwrap();
        let full = std::mem::replace(&mut log.file, good);
        log.append(Stream::Stdout, b"after\n", Timestamp::now()).unwrap();
        let good = std::mem::replace(&mut log.file, full);
        log.append(Stream::Stdout, b"again\n", Timestamp::now()).unwrap();
        log.file = good;
        let text = String::from_utf8(text(dir.path())).unwrap();
        assert_eq!(text, "before\n14 bytes were not kept: the log could not be written\nafter\n");
        log.append(
            Stream::Stdout,
            &vec![b'x'; usize::try_from(RECOVERED).unwrap()],
            Timestamp::now(),
        )
        .unwrap();
        log.file = File::options().write(true).open("/dev/full").unwrap();
        log.append(Stream::Stdout, b"lost later\n", Timestamp::now()).unwrap_err();
    }
}
