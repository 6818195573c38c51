//! Unix sockets in a state directory, whose path may be longer than a socket's address: they are reached through the
//! directory's descriptor.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;

/// How long a connection waits that could not be taken for want of what the process or the host has a limit of.
pub(crate) const REST: Duration = Duration::from_millis(100);

/// Whether a connection could not be taken so, and still waits (accept(2)).
pub(crate) fn is_starved(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| lacks.contains(&errno))
}

fn through(directory: &File, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

/// Listens at `name` in `directory`, without waiting, in the place of whatever is there.
pub(crate) fn listen(directory: &Path, name: &str) -> io::Result<UnixListener> {
    let opened = File::open(directory)?;
    match std::fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(through(&opened, name))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to `name` in `directory`.
pub(crate) fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let opened = File::open(directory)?;
    UnixStream::connect(through(&opened, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        assert!(connect(&deep, "s").is_err());
        for _ in 0..2 {
            let listener = listen(&deep, "s").unwrap();
            connect(&deep, "s").unwrap();
            listener.accept().unwrap();
        }
    }
}
