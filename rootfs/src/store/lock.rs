//! Advisory locks between processes (flock(2)); the kernel drops them when a process ends, however it ends.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::{Errno, retry_on_intr},
};

/// A lock, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: OwnedFd,
}

impl Lock {
    /// Waits until nobody holds `path` exclusively.
    pub(super) fn shared(path: &Path) -> io::Result<Self> {
        Self::take(path, FlockOperation::LockShared)
    }

    /// Waits until nobody holds `path`.
    pub(super) fn exclusive(path: &Path) -> io::Result<Self> {
        Self::take(path, FlockOperation::LockExclusive)
    }

    /// None if somebody holds `path`.
    pub(super) fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        match Self::take(path, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => Ok(Some(lock)),
            Err(e) if e.raw_os_error() == Some(Errno::WOULDBLOCK.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn take(path: &Path, operation: FlockOperation) -> io::Result<Self> {
        let file =
            File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        retry_on_intr(|| flock(file.as_fd(), operation))?;
        Ok(Self { file: file.into() })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing: a child of another thread has the file, too, until it runs its program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}
