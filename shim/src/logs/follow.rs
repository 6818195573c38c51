//! Follows a log while it is written, over rotations.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};

use super::{Entry, file, read::open_all};

/// The directory is looked at this often even if nothing is heard of it, since whoever is killed changes no file.
const GLANCE: Duration = Duration::from_millis(500);

/// Follows a log.
#[derive(Debug)]
pub struct Follow {
    directory: PathBuf,
    watch: OwnedFd,
    current: Option<File>,
    waiting: VecDeque<File>,
    /// What was read of a line.
    rest: Vec<u8>,
    /// Lines that are damaged.
    pub damaged: u64,
    /// The log was rotated so often that files went before they were read.
    pub overtaken: bool,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// An entry.
    Entry(Entry<'static>),
    /// Nothing for now.
    Nothing,
}

impl Follow {
    /// Follows the log from these files on, the oldest first, which are those that [`open_all`] opened.
    ///
    /// # Errors
    /// No more inotify instances, or a directory that is gone.
    pub fn new(directory: &Path, files: Vec<File>) -> io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(
            &watch,
            directory,
            inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::DELETE_SELF,
        )?;
        Ok(Self {
            directory: directory.into(),
            watch,
            current: None,
            waiting: files.into(),
            rest: Vec::new(),
            damaged: 0,
            overtaken: false,
        })
    }

    /// The next entry that is there.
    ///
    /// # Errors
    /// That of read(2).
    pub fn next_entry(&mut self) -> io::Result<Next> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                match Entry::decode(&line) {
                    Some(entry) => return Ok(Next::Entry(entry)),
                    None => self.damaged += 1,
                }
                continue;
            }
            if self.current.is_none() {
                self.current = self.waiting.pop_front();
            }
            let Some(current) = self.current.as_mut() else {
                self.waiting = open_all(&self.directory)?.into();
                if self.waiting.is_empty() {
                    return Ok(Next::Nothing);
                }
                continue;
            };
            if read_more(current, &mut self.rest)? {
                continue;
            }
            if self.waiting.is_empty() && !self.was_rotated()? {
                return Ok(Next::Nothing);
            }
            // Nobody writes to this file any more, but somebody may have between the two looks at it.
            let Some(current) = self.current.as_mut() else { continue };
            if !read_more(current, &mut self.rest)? {
                self.advance()?;
            }
        }
    }

    /// Waits until there may be more.
    ///
    /// # Errors
    /// That of poll(2).
    pub fn wait(&self) -> io::Result<()> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(GLANCE.subsec_nanos()) };
        let mut fds = [PollFd::new(&self.watch, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = [0; 4096];
        // What it was does not matter, and an empty queue is no error.
        while rustix::io::read(self.watch.as_fd(), &mut events[..]).is_ok_and(|length| length > 0) {
        }
        Ok(())
    }

    fn was_rotated(&self) -> io::Result<bool> {
        let Some(current) = &self.current else { return Ok(false) };
        match fs::metadata(file(&self.directory, 0)) {
            Ok(written) => Ok(written.ino() != current.metadata()?.ino()),
            // Between two renames, or removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Goes on with the file that was begun after the current one.
    fn advance(&mut self) -> io::Result<()> {
        // A line that has no end in a file that is finished never gets one.
        self.damaged += u64::from(!std::mem::take(&mut self.rest).is_empty());
        let Some(finished) = self.current.take() else { return Ok(()) };
        if self.waiting.is_empty() {
            let inode = finished.metadata()?.ino();
            let mut files: VecDeque<File> = open_all(&self.directory)?.into();
            let mut place = None;
            for (number, file) in files.iter().enumerate() {
                if file.metadata()?.ino() == inode {
                    place = Some(number + 1);
                }
            }
            self.overtaken |= place.is_none();
            files.drain(..place.unwrap_or(0));
            self.waiting = files;
        }
        Ok(())
    }
}

fn read_more(from: &mut File, to: &mut Vec<u8>) -> io::Result<bool> {
    Ok(from.take(64 << 10).read_to_end(to)? > 0)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        logs::{LogWriter, Stream},
        settings::LogLimits,
        size::MemorySize,
    };

    fn drain(follow: &mut Follow, to: &mut String) {
        while let Next::Entry(entry) = follow.next_entry().unwrap() {
            to.push_str(std::str::from_utf8(&entry.bytes).unwrap());
        }
    }

    #[test]
    fn every_line_is_seen_once_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_size: MemorySize(1000), max_file: 1000 };
        let mut log = LogWriter::open(dir.path(), limits).unwrap();
        let mut follow = Follow::new(dir.path(), open_all(dir.path()).unwrap()).unwrap();
        let (mut want, mut got) = (String::new(), String::new());
        for number in 0..500 {
            let line = format!("line {number}\n");
            log.append(Stream::Stdout, line.as_bytes(), Timestamp::now()).unwrap();
            want.push_str(&line);
            // Sometimes at once, sometimes after several rotations.
            if number % 97 == 0 || number % 31 == 5 {
                drain(&mut follow, &mut got);
                assert_eq!(got, want);
            }
        }
        follow.wait().unwrap();
        drain(&mut follow, &mut got);
        assert_eq!(got, want);
        assert!(!follow.overtaken && follow.damaged == 0);
    }

    #[test]
    fn a_reader_that_is_too_slow_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_size: MemorySize(300), max_file: 2 };
        let mut log = LogWriter::open(dir.path(), limits).unwrap();
        let mut follow = Follow::new(dir.path(), open_all(dir.path()).unwrap()).unwrap();
        let mut got = String::new();
        for number in 0..100 {
            let line = format!("line {number}\n");
            log.append(Stream::Stdout, line.as_bytes(), Timestamp::now()).unwrap();
            if number == 0 {
                drain(&mut follow, &mut got);
            }
        }
        drain(&mut follow, &mut got);
        assert!(follow.overtaken);
        assert!(got.starts_with("line 0\n") && got.ends_with("line 99\n"), "{got}");
    }
}
