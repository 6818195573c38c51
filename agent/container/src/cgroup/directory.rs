//! A group's directory in one hierarchy, and its control files.

use std::{
    cell::OnceCell,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::Version;

/// Control files that are read hold a few numbers or one line a process.
const MAX_READ: usize = 1 << 20;

/// A directory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Directory {
    pub(super) version: Version,
    /// Those whose files are here, `cpu,cpuacct`; `name=NAME` for a hierarchy without any.
    pub(super) controllers: String,
    /// Absolute.
    pub(super) path: String,
    /// How many of the directories above it were made for it.
    pub(super) parents: usize,
    #[serde(skip)]
    fd: OnceCell<OwnedFd>,
}

impl Directory {
    pub(super) fn new(version: Version, controllers: &str, path: String, parents: usize) -> Self {
        let controllers = controllers.to_owned();
        Self { version, controllers, path, parents, fd: OnceCell::new() }
    }

    /// The controller's files are here.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }

    /// An open descriptor of it; after the first call, its files are found through that.
    pub(super) fn open(&self) -> Result<BorrowedFd<'_>, Errno> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.as_fd());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.path, flags, Mode::empty())?;
        Ok(self.fd.get_or_init(|| fd).as_fd())
    }

    /// Opens one of its files.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        match self.fd.get() {
            Some(fd) => rustix::fs::openat(fd, name, flags, Mode::empty()),
            None => rustix::fs::openat(CWD, format!("{}/{name}", self.path), flags, Mode::empty()),
        }
    }

    pub(super) fn write(&self, name: &str, value: &str) -> Result<(), Errno> {
        let file = self.file(name, OFlags::WRONLY)?;
        rustix::io::write(&file, value.as_bytes()).map(drop)
    }

    pub(super) fn read(&self, name: &str) -> Result<String, Errno> {
        read(self.file(name, OFlags::RDONLY)?.as_fd())
    }

    /// A file with one number; `None` when there is no such file or it says `max`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        number(&self.read(name).ok()?)
    }

    /// A file with a name and a number on each line.
    pub(super) fn table(&self, name: &str) -> Vec<(String, u64)> {
        table(&self.read(name).unwrap_or_default())
    }

    /// A file with several numbers.
    pub(super) fn numbers(&self, name: &str) -> Vec<u64> {
        self.read(name).unwrap_or_default().split_whitespace().filter_map(number).collect()
    }
}

/// A name and a number on each line.
pub(super) fn table(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), number(value)?))
        })
        .collect()
}

/// A row of a table, or 0.
pub(super) fn row(table: &[(String, u64)], name: &str) -> u64 {
    table.iter().find(|(row, _)| row == name).map_or(0, |(_, value)| *value)
}

/// A number as control files have it. Some of cgroup v1's count modulo 2^64.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned))
}

/// Reads an open file to its end.
pub(super) fn read(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut text = Vec::with_capacity(512);
    while text.len() < MAX_READ {
        text.reserve(512);
        if rustix::io::read(file, rustix::buffer::spare_capacity(&mut text))? == 0 {
            break;
        }
    }
    String::from_utf8(text).map_err(|_| Errno::ILSEQ)
}
