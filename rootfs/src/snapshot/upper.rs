//! The upper directory of an overlay that a guest writes to. The guest's overlayfs keeps its marks in `user.overlay.*`, since a file server without
//! CAP_SYS_ADMIN may not touch `trusted.*`, where the host's overlayfs looks for them. The one mark that both need is that of opaque directories.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, OFlags};

use super::{
    SnapshotError, WalkError,
    marks::{Marks, Of, Reader, copy_opaque},
    open,
};
use crate::{LayerError, limits, path::display};

/// Bytes of paths that are not looked at yet: a guest decides how many there are.
const PENDING: usize = 32 << 20;

/// An upper directory, open: whoever loses sight of its path can still settle it.
#[derive(Debug)]
pub struct Upper {
    path: PathBuf,
    directory: OwnedFd,
}

impl Upper {
    /// Opens it.
    ///
    /// # Errors
    /// [`SnapshotError::Directory`].
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let directory = open::root(path).map_err(|errno| SnapshotError::Directory {
            path: path.into(),
            source: WalkError::read(".".into(), errno),
        })?;
        Ok(Self { path: path.into(), directory })
    }

    /// Makes each directory in it that is opaque for the host's overlayfs opaque for a guest's, and the other way round. For before a guest gets
    /// the directory and after it had it, never meanwhile. Nothing outside of the directory is reached, whatever a guest has put there.
    ///
    /// # Errors
    /// [`SnapshotError::Directory`]: something that cannot be read, a mark that a guest's overlayfs would not follow, more than 2,000,000
    /// directories, or very many in one.
    pub fn settle(&self) -> Result<(), SnapshotError> {
        settle(&self.directory)
            .map_err(|source| SnapshotError::Directory { path: self.path.clone(), source })
    }
}

fn settle(root: &OwnedFd) -> Result<(), WalkError> {
    let mut reader = Reader::new(Marks::Trusted);
    let mut todo: Vec<Vec<u8>> = vec![b".".to_vec()];
    let (mut count, mut bytes) = (0, 0);
    while let Some(path) = todo.pop() {
        bytes -= path.len().min(bytes);
        let entry = || display(&path);
        let failed = |errno| WalkError::read(entry(), errno);
        count += 1;
        if count > limits::LAYER_ENTRIES {
            return Err(LayerError::TooManyEntries(limits::LAYER_ENTRIES).into());
        }
        let directory = open::inside(root, &path, OFlags::DIRECTORY).map_err(failed)?;
        reader.read(Of::Open(directory.as_fd()), &entry)?;
        copy_opaque(directory.as_fd()).map_err(failed)?;
        for below in rustix::fs::Dir::read_from(&directory).map_err(failed)? {
            let below = below.map_err(failed)?;
            let name = below.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_directory = match below.file_type() {
                FileType::Unknown => open::look(&directory, name).is_ok_and(|look| {
                    FileType::from_raw_mode(look.stx_mode.into()) == FileType::Directory
                }),
                kind => kind == FileType::Directory,
            };
            if is_directory && path.len() + name.to_bytes().len() < limits::PATH {
                let below = [&path[..], b"/", name.to_bytes()].concat();
                bytes += below.len();
                todo.push(below);
            }
            if bytes > PENDING {
                return Err(LayerError::TooMuchMetadata(PENDING).into());
            }
        }
    }
    Ok(())
}
