//! A log file. A program would be told that its file's disk is full, and few know what to do then; so it writes to a pipe, and a thread
//! copies that to the file. What cannot be written is lost, said once, and the program goes on.

use std::{
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, TryLockError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    log,
    refusal::{Refusal, at, cannot},
};

/// Bytes that are copied at once.
const CHUNK: usize = 16 << 10;
/// A copying thread calls little.
const STACK: usize = 128 << 10;
/// A file that can be written and then not is spoken of again after this time.
const SILENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether all is written, and how long.
const LOOK: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(10);

/// A log file that is written.
#[derive(Debug)]
pub(super) struct LogFile {
    reader: Arc<PipeReader>,
    /// Held from the moment when something is read until it is written.
    busy: Arc<Mutex<()>>,
}

impl LogFile {
    /// Opens the file, which is made with its directory, and begins to copy what is written to the pipe.
    ///
    /// # Errors
    /// What cannot be made.
    pub(super) fn open(path: &Path) -> Result<(PipeWriter, Self), Refusal> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at("make", parent))?;
        }
        let file =
            File::options().create(true).append(true).open(path).map_err(at("open", path))?;
        let (reader, writer) = io::pipe().map_err(cannot("make a pipe"))?;
        let copied = Self { reader: Arc::new(reader), busy: Arc::default() };
        let (reader, busy) = (Arc::clone(&copied.reader), Arc::clone(&copied.busy));
        let mut sink = Sink { file, path: path.to_owned(), lost: 0, told: None };
        let copy = move || {
            while wait(&reader) {
                let _busy = busy.lock();
                let mut chunk = [0; CHUNK];
                match (&*reader).read(&mut chunk) {
                    Ok(0) | Err(_) => return,
                    Ok(length) => sink.write(chunk.get(..length).unwrap_or_default()),
                }
            }
        };
        let thread = thread::Builder::new().name("log".into()).stack_size(STACK);
        thread.spawn(copy).map_err(cannot("start a thread"))?;
        Ok((writer, copied))
    }

    /// Waits until all is written that was in the pipe, but not for ever.
    pub(super) async fn flush(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_empty(&self) -> bool {
        match self.busy.try_lock() {
            Err(TryLockError::WouldBlock) => false,
            _ => rustix::io::ioctl_fionread(&*self.reader).is_ok_and(|waiting| waiting == 0),
        }
    }
}

/// Waits until there is something to read, or the end. False: it cannot be waited for.
fn wait(reader: &PipeReader) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut asked = [PollFd::new(reader, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut asked, None)).is_ok()
}

/// Where it goes.
struct Sink<F> {
    file: F,
    path: PathBuf,
    /// Bytes that could not be written since it was told.
    lost: u64,
    /// When it was told that something is lost.
    told: Option<Instant>,
}

impl<F: Write> Sink<F> {
    fn write(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(written @ 1..) => {
                    self.goes_on();
                    rest = rest.get(written..).unwrap_or_default();
                }
                Ok(0) => return self.loses(rest.len(), &io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.loses(rest.len(), &error),
            }
        }
    }

    fn loses(&mut self, length: usize, error: &io::Error) {
        if self.lost == 0 && self.told.is_none_or(|told| told.elapsed() > SILENCE) {
            self.told = Some(Instant::now());
            let path = self.path.display();
            log::warn(format_args!("cannot write {path}: {error}; the container's output is lost"));
        }
        self.lost = self.lost.saturating_add(length as u64);
    }

    fn goes_on(&mut self) {
        if self.lost == 0 {
            return;
        }
        let (path, lost) = (self.path.display(), self.lost);
        log::warn(format_args!("{path} can be written again; {lost} bytes of output were lost"));
        self.lost = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_is_written_when_it_is_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/log");
        let (mut writer, file) = LogFile::open(&path).unwrap();
        for _ in 0..50 {
            writer.write_all(&[b'x'; 10_000]).unwrap();
            file.flush().await;
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 500_000);
        drop(writer);
        assert!(LogFile::open(&path.join("below")).is_err());
    }

    #[tokio::test]
    async fn a_full_disk_stops_nobody() {
        let (mut writer, file) = LogFile::open(Path::new("/dev/full")).unwrap();
        writer.write_all(&vec![b'x'; 1 << 20]).unwrap();
        file.flush().await;
    }

    /// Has room for so much at a time.
    struct Disk(usize, Vec<u8>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = bytes.len().min(self.0);
            if length == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 -= length;
            self.1.extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_lost_is_counted_and_it_goes_on() {
        let disk = Disk(3, Vec::new());
        let mut sink = Sink { file: disk, path: "log".into(), lost: 0, told: None };
        sink.write(b"abcd");
        let told = sink.told;
        sink.write(b"efg");
        assert_eq!((sink.lost, sink.told.is_some()), (4, true));
        sink.file.0 = 2;
        sink.write(b"hi");
        assert_eq!((sink.lost, sink.file.1.as_slice()), (0, &b"abchi"[..]));
        sink.write(b"j");
        assert_eq!((sink.lost, sink.told), (1, told));
    }
}
