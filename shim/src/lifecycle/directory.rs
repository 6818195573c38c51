//! A container's directory below the state root: its lock and its files.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::error::{LifecycleError, at};

/// The file with [`super::state::State`].
pub(super) const STATE: &str = "state.json";
/// The copy of the bundle's configuration at the time of `create`.
pub(super) const CONFIG: &str = "config.json";

/// How long a verb waits for another one: longer than a guest may take to boot.
const PATIENCE: Duration = Duration::from_secs(240);
const PRIVATE: Mode = Mode::from_raw_mode(0o700);
const FILE: Mode = Mode::from_raw_mode(0o600);
/// Directories below a container's directory that are removed with it go no deeper.
const MAX_DEPTH: u32 = 16;

/// An open directory of a container.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    id: String,
    fd: Arc<OwnedFd>,
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Guard(Arc<OwnedFd>);

impl Drop for Guard {
    fn drop(&mut self) {
        // Closing the directory would do it, too.
        let _ = rustix::fs::flock(&*self.0, FlockOperation::Unlock);
    }
}

/// Which lock.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    /// Nobody else changes the container.
    Exclusive,
    /// Nobody changes the container.
    Shared,
}

impl Directory {
    /// Takes the directory of a new container: whoever gets this has it alone, and locked.
    pub(super) fn claim(root: &Path, id: &str) -> Result<(Self, Guard), LifecycleError> {
        let path = root.join(id);
        loop {
            let new = match rustix::fs::mkdir(&path, PRIVATE) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(Errno::NOENT) => {
                    make_all(root).map_err(at("make", root))?;
                    continue;
                }
                Err(errno) => return Err(at("make", &path)(errno)),
            };
            let Some(directory) = Self::open(root, id)? else { continue };
            if !new && directory.has(STATE) {
                return Err(LifecycleError::Exists);
            }
            // A reader is through in no time; another maker has its state file in place soon, and this one gives up then.
            let guard = match directory.wait(Lock::Exclusive, || directory.has(STATE))? {
                Some(guard) if !directory.has(STATE) => guard,
                _ => return Err(LifecycleError::Exists),
            };
            if !directory.is_linked() {
                continue;
            }
            if !new {
                // Of a `delete` that was killed at its very end.
                directory.empty()?;
            }
            return Ok((directory, guard));
        }
    }

    /// Opens the directory of a container; `None` when there is none.
    pub(super) fn open(root: &Path, id: &str) -> Result<Option<Self>, LifecycleError> {
        let path = root.join(id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { path, id: id.to_owned(), fd: Arc::new(fd) })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(at("open", path)(errno)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the lock. [`LifecycleError::NotFound`] when the container was deleted meanwhile.
    pub(super) fn lock(&self, lock: Lock) -> Result<Guard, LifecycleError> {
        match self.wait(lock, || false)? {
            Some(guard) if self.is_linked() => Ok(guard),
            _ => Err(LifecycleError::NotFound),
        }
    }

    /// `None`: `give_up` said so before the lock was free.
    fn wait(
        &self,
        lock: Lock,
        give_up: impl Fn() -> bool,
    ) -> Result<Option<Guard>, LifecycleError> {
        let operation = match lock {
            Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Lock::Shared => FlockOperation::NonBlockingLockShared,
        };
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match rustix::fs::flock(&*self.fd, operation) {
                Ok(()) => return Ok(Some(Guard(self.fd.clone()))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if give_up() => return Ok(None),
                Err(Errno::AGAIN) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(Errno::AGAIN) => {
                    let (id, seconds) = (self.id.clone(), PATIENCE.as_secs());
                    return Err(LifecycleError::Busy { id, seconds });
                }
                Err(errno) => return Err(at("lock", &self.path)(errno)),
            }
        }
    }

    /// Somebody works on the container at this moment. Not to be asked by whoever has the lock.
    pub(super) fn is_locked(&self) -> bool {
        match rustix::fs::flock(&*self.fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                drop(Guard(self.fd.clone()));
                false
            }
            Err(_) => true,
        }
    }

    fn is_linked(&self) -> bool {
        rustix::fs::fstat(&*self.fd).is_ok_and(|stat| stat.st_nlink > 0)
    }

    pub(super) fn owner(&self) -> u32 {
        rustix::fs::fstat(&*self.fd).map_or(0, |stat| stat.st_uid)
    }

    fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(&*self.fd, name, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Reads a file of at most `limit` bytes; `None` when it is not there.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, LifecycleError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&*self.fd, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(at("open", self.path.join(name))(errno)),
        };
        let mut content = Vec::with_capacity(4096);
        file.take(limit).read_to_end(&mut content).map_err(at("read", self.path.join(name)))?;
        Ok(Some(content))
    }

    /// Writes a file that nobody reads yet.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), LifecycleError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*self.fd, name, flags | OFlags::NOFOLLOW, FILE)
            .map_err(at("make", self.path.join(name)))?;
        File::from(file).write_all(content).map_err(at("write", self.path.join(name)))
    }

    /// Replaces a file: readers see the old content or the new one.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> Result<(), LifecycleError> {
        let new = format!(".{name}.new");
        self.write(&new, content)?;
        rustix::fs::renameat(&*self.fd, &new, &*self.fd, name)
            .map_err(at("replace", self.path.join(name)))
    }

    /// Removes the directory and all in it, the state file last.
    pub(super) fn remove(&self) -> Result<(), LifecycleError> {
        let unlink = |name| match rustix::fs::unlinkat(&*self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(at("remove", self.path.join(name))(errno)),
        };
        // Mostly there is nothing but these two.
        unlink(CONFIG)?;
        self.empty()?;
        unlink(STATE)?;
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(at("remove", &self.path)(errno)),
        }
    }

    /// Removes all but the state file.
    fn empty(&self) -> Result<(), LifecycleError> {
        clear(&*self.fd, &[STATE], MAX_DEPTH).map_err(at("clear", &self.path))
    }
}

/// Removes what a directory holds, and never follows a link.
fn clear(directory: impl AsFd, keep: &[&str], depth: u32) -> Result<(), Errno> {
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_bytes();
        if text == b"." || text == b".." || keep.iter().any(|keep| keep.as_bytes() == text) {
            continue;
        }
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) if depth > 0 => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
        clear(&below, &[], depth - 1)?;
        rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn make_all(path: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdirat(CWD, path, PRIVATE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => {
            let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
                return Err(Errno::NOENT);
            };
            make_all(parent)?;
            make_all(path)
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Barrier, thread};

    use super::*;

    #[test]
    fn one_of_many_makers_wins() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("a/b");
        for round in 0..50 {
            let id = format!("c{round}");
            let barrier = Barrier::new(8);
            let wins = thread::scope(|scope| {
                let makers: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            match Directory::claim(&root, &id) {
                                Ok((directory, _guard)) => {
                                    directory.replace(STATE, b"{}").unwrap();
                                    true
                                }
                                Err(LifecycleError::Exists) => false,
                                Err(error) => panic!("{error}"),
                            }
                        })
                    })
                    .collect();
                makers.into_iter().map(|maker| usize::from(maker.join().unwrap())).sum::<usize>()
            });
            assert_eq!(wins, 1);
        }
    }

    #[test]
    fn what_a_killed_delete_left_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("c/deep/er")).unwrap();
        fs::write(root.path().join("c/deep/file"), "").unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("c/link")).unwrap();
        drop(Directory::claim(root.path(), "c").unwrap());
        assert_eq!(fs::read_dir(root.path().join("c")).unwrap().count(), 0);
        assert!(root.path().exists());
    }

    #[test]
    fn a_removed_directory_is_not_locked() {
        let root = tempfile::tempdir().unwrap();
        let (made, guard) = Directory::claim(root.path(), "c").unwrap();
        made.replace(STATE, b"{}").unwrap();
        let other = Directory::open(root.path(), "c").unwrap().unwrap();
        assert!(other.is_locked());
        made.remove().unwrap();
        drop(guard);
        assert!(matches!(other.lock(Lock::Shared), Err(LifecycleError::NotFound)));
        assert!(Directory::open(root.path(), "c").unwrap().is_none());
    }
}
