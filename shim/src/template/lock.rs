//! Locks of templates: held alone by who makes or removes one, and together by those who start clones of it. The lock of a
//! process that dies is released.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Locks `path`, alone or with others, unless that has to wait: `None` then.
    pub(super) fn acquire(path: &Path, alone: bool) -> io::Result<Option<Self>> {
        let operation = if alone {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        loop {
            let mut options = File::options();
            let file = options.create(true).truncate(false).write(true).mode(0o600).open(path)?;
            match flock(&file, operation) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                locked => locked?,
            }
            // Who removes a template removes its lock, too, which then is another file's or nobody's.
            let held = file.metadata()?;
            match fs::metadata(path) {
                Ok(now) if (now.dev(), now.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(Self { file }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the lock's file with the lock, which is held alone.
    pub(super) fn remove(self, path: &Path) {
        // One that stays is used again.
        let _ = fs::remove_file(path);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing: a child of another thread has the file, too, until it runs its program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_file_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = |alone| Lock::acquire(&path, alone).unwrap();
        let first = lock(false).unwrap();
        // As between fork(2) and execve(2).
        let _copy = first.file.try_clone().unwrap();
        drop(first);
        lock(true).unwrap();
    }

    #[test]
    fn one_alone_or_many_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = |alone| Lock::acquire(&path, alone).unwrap();
        let first = lock(true).unwrap();
        assert!(lock(true).is_none() && lock(false).is_none());
        drop(first);
        let (one, two) = (lock(false).unwrap(), lock(false).unwrap());
        assert!(lock(true).is_none());
        drop((one, two));
        lock(true).unwrap().remove(&path);
        assert!(!path.exists());
        // The lock of a removed file is nobody's.
        let again = lock(true).unwrap();
        assert!(lock(false).is_none());
        drop(again);
        assert!(Lock::acquire(&dir.path().join("no/lock"), true).is_err());
    }
}
