//! Named pipes that a client has made.

use std::{os::fd::OwnedFd, path::Path, time::Duration};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use tokio::time::{Instant, sleep};

use crate::refusal::{Refusal, at};

/// How long is waited for a client to open its end. A client opens it before it asks for the process, so that nearly none is.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(2);

/// The end for a process's standard input, and one that keeps it from ending.
///
/// # Errors
/// There is no such pipe.
pub(super) fn input(name: &str) -> Result<(OwnedFd, OwnedFd), Refusal> {
    let path = path(name);
    let reader = open(path, OFlags::RDONLY).map_err(at("open", path))?;
    if !is_fifo(&reader) {
        return Err(Refusal::invalid(format!("stdin {name}: it is not a named pipe")));
    }
    let writer = open(path, OFlags::WRONLY).map_err(at("open", path))?;
    wait_for_data(&reader).map_err(at("use", path))?;
    Ok((reader, writer))
}

/// The end for a process's output, and one that keeps what was written; none for a file, which keeps it by itself.
///
/// # Errors
/// It cannot be opened.
pub(super) async fn output(name: &str) -> Result<(OwnedFd, Option<OwnedFd>), Refusal> {
    let path = path(name);
    let deadline = Instant::now() + PATIENCE;
    // A client that opened its end after the last writer had closed its own would wait for ever.
    let early = loop {
        match open(path, OFlags::WRONLY | OFlags::APPEND) {
            Ok(writer) => break Some(writer),
            Err(Errno::NXIO) if Instant::now() < deadline => sleep(LOOK).await,
            Err(Errno::NXIO) => break None,
            Err(errno) => return Err(at("open", path)(errno)),
        }
    };
    if let Some(file) = early.as_ref().filter(|file| !is_fifo(file)) {
        wait_for_data(file).map_err(at("use", path))?;
        return Ok((early.ok_or(Errno::BADF).map_err(at("use", path))?, None));
    }
    let reader = open(path, OFlags::RDONLY).map_err(at("open", path))?;
    let writer = match early {
        Some(writer) => writer,
        None => open(path, OFlags::WRONLY).map_err(at("open", path))?,
    };
    wait_for_data(&writer).map_err(at("use", path))?;
    Ok((writer, Some(reader)))
}

fn path(name: &str) -> &Path {
    Path::new(name.strip_prefix("fifo://").unwrap_or(name))
}

/// Without waiting for the other end.
fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn is_fifo(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file)
        .is_ok_and(|facts| FileType::from_raw_mode(facts.st_mode) == FileType::Fifo)
}

/// Programs expect streams that wait.
fn wait_for_data(file: &OwnedFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags - OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use super::*;

    fn fifo(dir: &Path, name: &str) -> String {
        let path = dir.join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn what_was_written_waits_for_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let name = fifo(dir.path(), "out");
        let client = open(Path::new(&name), OFlags::RDONLY).unwrap();
        let (writer, held) = output(&name).await.unwrap();
        File::from(writer).write_all(b"text").unwrap();
        let mut got = String::new();
        File::from(client).read_to_string(&mut got).unwrap();
        assert_eq!((got.as_str(), held.is_some()), ("text", true));
    }

    #[tokio::test]
    async fn input_ends_with_its_last_writer() {
        let dir = tempfile::tempdir().unwrap();
        let name = fifo(dir.path(), "in");
        let (reader, writer) = input(&name).unwrap();
        let client = File::options().write(true).open(&name).unwrap();
        (&client).write_all(b"x").unwrap();
        drop((client, writer));
        let mut got = String::new();
        File::from(reader).read_to_string(&mut got).unwrap();
        assert_eq!(got, "x");
    }

    #[tokio::test]
    async fn a_file_is_written_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "a").unwrap();
        let (writer, held) = output(path.to_str().unwrap()).await.unwrap();
        File::from(writer).write_all(b"b").unwrap();
        assert_eq!(
            (std::fs::read_to_string(&path).unwrap().as_str(), held.is_none()),
            ("ab", true)
        );
        assert!(output("/does/not/exist").await.is_err() && input("/dev/null").is_err());
    }
}
