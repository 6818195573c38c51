//! The mount of a container's root in a mount namespace that is not the container's alone: it and what is mounted below it
//! do not go by themselves.

use std::path::{Path, PathBuf};

use rustix::{io::Errno, mount::UnmountFlags};
use serde::{Deserialize, Serialize};

use super::mount_at;
use crate::error::{Error, at};

/// Where the root is mounted, and the number of the mount that is on top there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootMount {
    path: PathBuf,
    id: u64,
}

impl RootMount {
    /// As it is before the container's root is mounted.
    pub(crate) fn before(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), id: mount_at(path)? })
    }

    /// As it is afterwards.
    pub(crate) fn after(self) -> Result<Self, Error> {
        Ok(Self { id: mount_at(&self.path)?, path: self.path })
    }

    /// Of one as it was before: unmounts what has come on top of it.
    pub(crate) fn undo(&self) -> Result<(), Error> {
        if mount_at(&self.path)? == self.id { Ok(()) } else { unmount(&self.path) }
    }

    /// Of one as it was afterwards: unmounts it, with all below it.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        if mount_at(&self.path).is_ok_and(|id| id == self.id) {
            unmount(&self.path)
        } else {
            Ok(())
        }
    }
}

fn unmount(path: &Path) -> Result<(), Error> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(at("unmount", path.display())(errno)),
    }
}
