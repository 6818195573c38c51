//! A container's directory: its state, its sockets, and the lock that its monitor holds as long as it lives.
//!
//! `<run>/containers/<id>/` holds `lock`, `state.json` and the VMM's socket and log; `<data>/containers/<id>/` holds the
//! writable layer. A directory whose lock nobody holds is what a killed monitor left: [`Registry::sweep`] removes it. Directories are
//! made and swept under one lock of their own, so that a sweep never sees one whose monitor has not locked it yet.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Why a container's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another running container has the name.
    #[error("the name {name:?} is taken by container {id}; choose another --name or end that one")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// Not a name.
    #[error(
        "{0:?} is not a container's name: 2 to 128 letters, digits and _.- are needed, the first a letter or digit"
    )]
    BadName(String),
    /// The path leaves no room for a socket's name in it.
    #[error(
        "the directory {0} is too long for a Unix socket in it (107 bytes); set BULKHEAD_RUN to a shorter one"
    )]
    TooLong(PathBuf),
}

/// What is remembered of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The name, the id's first 12 digits when none was given.
    pub name: String,
    /// The image's id.
    pub image: String,
    /// The monitor's pid.
    pub monitor: u32,
}

/// All containers of this host (or of this user's directories).
#[derive(Debug)]
pub struct Registry {
    run: PathBuf,
    data: PathBuf,
}

/// A container's directory, locked by this process. It is removed when this is dropped.
#[derive(Debug)]
pub struct Directory {
    state: State,
    run: PathBuf,
    data: PathBuf,
    _lock: File,
}

impl Registry {
    /// Opens it; the directories are made when they are not there.
    ///
    /// # Errors
    /// [`DirectoryError::Io`].
    pub fn open(run: &Path, data: &Path) -> Result<Self, DirectoryError> {
        let registry = Self { run: run.join("containers"), data: data.join("containers") };
        for dir in [&registry.run, &registry.data] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|e| io_error("make", dir, e))?;
        }
        Ok(registry)
    }

    /// Removes what killed monitors left behind and returns the states of the containers that live.
    ///
    /// # Errors
    /// [`DirectoryError::Io`].
    pub fn sweep(&self) -> Result<Vec<State>, DirectoryError> {
        let _guard = self.guard()?;
        self.sweep_guarded()
    }

    /// Makes a container's directory and locks it.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn create(&self, name: Option<&str>, image: &str) -> Result<Directory, DirectoryError> {
        if let Some(name) = name {
            check_name(name)?;
        }
        let _guard = self.guard()?;
        let living = self.sweep_guarded()?;
        if let Some(taken) = living.iter().find(|state| Some(state.name.as_str()) == name) {
            return Err(DirectoryError::NameTaken {
                name: taken.name.clone(),
                id: taken.id.clone(),
            });
        }
        let id = new_id()?;
        let state = State {
            name: name.map_or_else(|| id[..12].to_owned(), str::to_owned),
            image: image.into(),
            monitor: std::process::id(),
            id,
        };
        let run = self.run.join(&state.id);
        let data = self.data.join(&state.id);
        if run.join("vsock_1025").as_os_str().len() > 107 {
            return Err(DirectoryError::TooLong(run));
        }
        DirBuilder::new().mode(0o700).create(&run).map_err(|e| io_error("make", &run, e))?;
        let made = lock_file(&run).and_then(|lock| {
            // Nobody else can hold a lock in a directory that has just been made under the guard.
            flock(&lock, FlockOperation::NonBlockingLockExclusive)
                .map_err(|e| io_error("lock", &run, e.into()))?;
            Ok(Directory { state, run: run.clone(), data: data.clone(), _lock: lock })
        });
        if made.is_err() {
            let _ = fs::remove_dir_all(&run);
        }
        let directory = made?;
        DirBuilder::new().mode(0o700).create(&data).map_err(|e| io_error("make", &data, e))?;
        write_atomically(
            &run.join("state.json"),
            &serde_json::to_vec(&directory.state).unwrap_or_default(),
        )?;
        Ok(directory)
    }

    fn guard(&self) -> Result<File, DirectoryError> {
        let lock = lock_file(&self.run)?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| io_error("lock", &self.run, e.into()))?;
        Ok(lock)
    }

    fn sweep_guarded(&self) -> Result<Vec<State>, DirectoryError> {
        let mut living = Vec::new();
        for path in subdirectories(&self.run)? {
            let lock = lock_file(&path)?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_dir_all(&path).map_err(|e| io_error("remove", &path, e))?;
            } else if let Ok(text) = fs::read(path.join("state.json"))
                && let Ok(state) = serde_json::from_slice(&text)
            {
                living.push(state);
            }
        }
        for path in subdirectories(&self.data)? {
            let owner = path.file_name().map(|id| self.run.join(id));
            if owner.is_some_and(|owner| !owner.exists()) {
                fs::remove_dir_all(&path).map_err(|e| io_error("remove", &path, e))?;
            }
        }
        Ok(living)
    }
}

impl Directory {
    /// What is remembered of the container.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The path that the VMM's sockets begin with.
    #[must_use]
    pub fn vsock(&self) -> PathBuf {
        self.run.join("vsock")
    }

    /// Where the VMM's standard error goes.
    #[must_use]
    pub fn vmm_log(&self) -> PathBuf {
        self.run.join("vmm.log")
    }

    /// The image of the writable layer.
    #[must_use]
    pub fn writable(&self) -> PathBuf {
        self.data.join("writable.ext4")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next command.
        let _ = fs::remove_dir_all(&self.data);
        let _ = fs::remove_dir_all(&self.run);
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError::Io { action, path: path.into(), source }
}

fn lock_file(dir: &Path) -> Result<File, DirectoryError> {
    let path = dir.join("lock");
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io_error("open", &path, e))
}

fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>, DirectoryError> {
    let entries = fs::read_dir(dir).map_err(|e| io_error("read", dir, e))?;
    Ok(entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect())
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), DirectoryError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|e| io_error("write", path, e))
}

fn check_name(name: &str) -> Result<(), DirectoryError> {
    let good = (2..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good { Ok(()) } else { Err(DirectoryError::BadName(name.into())) }
}

fn new_id() -> Result<String, DirectoryError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(path)
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|e| io_error("read", path, e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("run"), &dir.path().join("data")).unwrap();
        (dir, registry)
    }

    #[test]
    fn a_directory_lives_as_long_as_its_owner() {
        let (_dir, registry) = registry();
        let one = registry.create(Some("one"), "image").unwrap();
        fs::write(one.writable(), b"x").unwrap();
        assert_eq!(registry.sweep().unwrap().len(), 1);
        let (run, data) = (one.run.clone(), one.data.clone());
        drop(one);
        assert!(!run.exists() && !data.exists());
    }

    #[test]
    fn what_a_killed_owner_left_is_swept() {
        let (_dir, registry) = registry();
        let one = registry.create(None, "image").unwrap();
        let (run, data) = (one.run.clone(), one.data.clone());
        // A killed process drops nothing but its locks.
        let mut one = std::mem::ManuallyDrop::new(one);
        let replacement = File::open("/dev/null").unwrap();
        drop(std::mem::replace(&mut one._lock, replacement));
        assert!(run.exists() && data.exists());
        assert!(registry.sweep().unwrap().is_empty());
        assert!(!run.exists() && !data.exists());
    }

    #[test]
    fn a_living_containers_name_is_taken() {
        let (_dir, registry) = registry();
        let first = registry.create(Some("web"), "image").unwrap();
        let error = registry.create(Some("web"), "image").unwrap_err().to_string();
        assert!(error.contains("web") && error.contains(&first.state().id), "{error}");
        drop(first);
        registry.create(Some("web"), "image").unwrap();
        for bad in ["", "x", "-x", "a/b", "..", "a b"] {
            assert!(
                matches!(registry.create(Some(bad), "i"), Err(DirectoryError::BadName(_))),
                "{bad}"
            );
        }
    }
}
