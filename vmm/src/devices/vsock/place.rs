//! Where the device's Unix sockets are: a name in a directory. The directory's path may be longer than a socket's address (unix(7)).

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The longest name in bytes: with `/proc/self/fd/2147483647/` before it, `_4294967295` and a zero byte behind it, it is an address.
pub(super) const MAX_NAME: usize = 108 - 25 - 11 - 1;

/// A directory that is reached by a short path, and the name of the listening socket in it.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
    name: OsString,
    /// What the short path leads through, until the process moves into its jail.
    held: Option<File>,
}

impl Place {
    /// Takes hold of the directory of `path`; `None`: the name is too long or there is none.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        let Some(name) = path.file_name().filter(|name| name.len() <= MAX_NAME) else {
            return Ok(None);
        };
        let held = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(directory_of(path))?;
        let directory = format!("/proc/self/fd/{}", held.as_raw_fd()).into();
        Ok(Some(Self { directory, name: name.to_owned(), held: Some(held) }))
    }

    /// The directory is reached by this path from now on.
    pub(super) fn moved_to(&mut self, directory: PathBuf) {
        self.directory = directory;
        self.held = None;
    }

    /// The listening socket's path.
    pub(super) fn listener(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// The path of the socket of a port.
    pub(super) fn port(&self, port: u32) -> PathBuf {
        let mut name = self.name.clone();
        name.push(format!("_{port}"));
        self.directory.join(name)
    }
}

/// The directory of a socket's path.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
