//! The directory that holds the containers' directories.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    container::Container,
    create::{self, CreateOptions},
    directory::{Directory, Lock, STATE},
    error::{LifecycleError, at},
};
use crate::sandbox::Spawned;

/// The longest name: a file's.
const MAX_ID: usize = 255;

/// A container, or the name of one that cannot be read and why.
pub type Listed = Result<Container, (String, LifecycleError)>;

/// Where the states of containers are.
#[derive(Debug, Clone)]
pub struct StateRoot {
    path: PathBuf,
}

impl StateRoot {
    /// The root at this path, which is made with the first container.
    #[must_use]
    pub fn open(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes a container up to the point where its process waits to be started. Of many that make one of the same name,
    /// one succeeds.
    ///
    /// # Errors
    /// [`LifecycleError`]; nothing is left behind then.
    pub fn create(
        &self,
        options: &CreateOptions<'_>,
    ) -> Result<(Container, Spawned), LifecycleError> {
        check_id(options.id)?;
        create::create(&self.path, options)
    }

    /// A container.
    ///
    /// # Errors
    /// [`LifecycleError::NotFound`], [`LifecycleError::Damaged`].
    pub fn get(&self, id: &str) -> Result<Container, LifecycleError> {
        check_id(id)?;
        let directory = Directory::open(&self.path, id)?.ok_or(LifecycleError::NotFound)?;
        Container::load(directory)
    }

    /// All containers, by name. One that cannot be read is an error in the list, not of the list.
    ///
    /// # Errors
    /// [`LifecycleError::File`] when the root cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, LifecycleError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at("read", &self.path)(error)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| check_id(name).is_ok())
            .collect();
        names.sort();
        let read = |name: String| match self.get(&name) {
            Ok(container) => Some(Ok(container)),
            Err(LifecycleError::NotFound) => None,
            Err(error) => Some(Err((name, error))),
        };
        Ok(names.into_iter().filter_map(read).collect())
    }

    /// Removes what is left of a container whose state cannot be read. True: there was something.
    ///
    /// # Errors
    /// [`LifecycleError`].
    pub fn discard(&self, id: &str) -> Result<bool, LifecycleError> {
        check_id(id)?;
        let Some(directory) = Directory::open(&self.path, id)? else { return Ok(false) };
        match directory.lock(Lock::Exclusive) {
            Err(LifecycleError::NotFound) => Ok(false),
            locked => {
                locked?;
                directory.remove()?;
                Ok(true)
            }
        }
    }

    /// Where the container's files are.
    #[must_use]
    pub fn directory(&self, id: &str) -> PathBuf {
        self.path.join(id)
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A container of this name is there or being made.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.path.join(id).join(STATE).exists()
    }
}

/// What runc takes for a name: `[\w+-.]+`.
fn check_id(id: &str) -> Result<(), LifecycleError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+,-.".contains(&byte);
    let fits = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(fits) && id != "." && id != "..";
    if fits { Ok(()) } else { Err(LifecycleError::InvalidId) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_runc_takes() {
        for good in ["a", "A_b+c,d-e.f", "...", &"x".repeat(MAX_ID)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", "a\0", &"x".repeat(MAX_ID + 1)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_damaged_directory_is_one_entry_of_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::open(dir.path());
        assert!(StateRoot::open(dir.path().join("none")).list().unwrap().is_empty());
        fs::create_dir(dir.path().join("bad")).unwrap();
        fs::write(dir.path().join("bad").join(STATE), "{").unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let list = root.list().unwrap();
        assert!(
            matches!(&list[..], [Err((name, LifecycleError::Damaged { .. }))] if name == "bad")
        );
        assert!(matches!(root.get("bad"), Err(LifecycleError::Damaged { .. })));
        assert!(root.discard("bad").unwrap() && root.discard("empty").unwrap());
        assert!(matches!(root.get("bad"), Err(LifecycleError::NotFound)));
        assert!(!root.discard("bad").unwrap());
    }
}
