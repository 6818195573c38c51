//! Why a snapshot's directories could not be made a disk.

use std::{io, path::PathBuf};

use rustix::io::Errno;

use crate::{LayerError, MergeError, StoreError, WriteError};

/// Why there is no disk of a snapshot's directories. Nothing of what was begun is left behind.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// One directory.
    #[error("snapshot {}", path.display())]
    Directory {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: WalkError,
    },
    /// A directory that does not fit on those below it.
    #[error("snapshot {}", path.display())]
    Merge {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: MergeError,
    },
    /// More directories than an image may have layers.
    #[error("the root has {0} lower directories; 1 to 256 are possible")]
    Count(usize),
    /// The metadata blob.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a directory of the host could not be read as a layer.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The system refused.
    #[error("\"{entry}\" cannot be read")]
    Read {
        /// What was read, by its path in the directory, made printable.
        entry: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not as it was a moment ago.
    #[error("\"{0}\" changed while it was read; a committed snapshot must stay as it is")]
    Changed(String),
    /// A mount, or a part of another file system.
    #[error("\"{0}\" is on another file system")]
    Foreign(String),
    /// A mark that would have to be followed.
    #[error("\"{entry}\" has overlayfs's mark {name}, which only the host's kernel follows")]
    Mark {
        /// The file.
        entry: String,
        /// The attribute.
        name: String,
    },
    /// A file system that does not say when files were made.
    #[error("its file system tells no birth times, so that a later snapshot could be taken for it")]
    NoBirthTime,
    /// A file of a mounted image that is compressed, or in pieces.
    #[error("\"{0}\" does not lie in one piece in the file that is mounted")]
    Scattered(String),
    /// An entry, or all of them together, is beyond what an image may have.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

impl WalkError {
    pub(super) fn read(entry: String, errno: Errno) -> Self {
        Self::Read { entry, source: errno.into() }
    }
}
