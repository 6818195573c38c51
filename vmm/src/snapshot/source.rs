//! The files of a saved machine that another one goes on from.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{DecodeError, Difference, Identity, SavedMachine, ShapeError, frame};
use crate::{
    api::{Backend, SnapshotFiles},
    memory::{GuestAddress, GuestMemory},
};

/// Why a machine cannot go on from a file.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file.
    #[error("cannot read the saved machine {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state.
    #[error("cannot go on from the saved machine {path}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// The machine or the host is another.
    #[error("cannot go on from the saved machine {path}")]
    Differs {
        /// The state file.
        path: PathBuf,
        /// What differs.
        source: Difference,
    },
    /// The memory.
    #[error("cannot go on from the saved memory {path}")]
    Memory {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ShapeError,
    },
}

/// A saved machine, whose memory is open but not looked at.
#[derive(Debug)]
pub struct Source {
    /// All but the memory.
    pub saved: SavedMachine,
    memory: File,
    memory_path: PathBuf,
}

impl Source {
    /// Opens the files and checks that the saved machine is `identity`, on a KVM that is `backend`.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn open(
        files: &SnapshotFiles,
        identity: &Identity,
        backend: Backend,
    ) -> Result<Self, RestoreError> {
        let path = || files.state.clone();
        let bytes =
            read(&files.state).map_err(|source| RestoreError::Read { path: path(), source })?;
        let saved = SavedMachine::decode(&bytes)
            .map_err(|source| RestoreError::State { path: path(), source })?;
        saved
            .identity
            .check(identity)
            .and_then(|()| saved.kind.check(backend))
            .map_err(|source| RestoreError::Differs { path: path(), source })?;
        let memory = File::open(&files.memory)
            .map_err(|source| RestoreError::Read { path: files.memory.clone(), source })?;
        Ok(Self { saved, memory, memory_path: files.memory.clone() })
    }

    /// Maps the memory of a machine with `ranges`.
    ///
    /// # Errors
    /// [`RestoreError::Memory`].
    pub fn map(
        self,
        ranges: &[(GuestAddress, usize)],
    ) -> Result<(SavedMachine, GuestMemory), RestoreError> {
        let Self { saved, memory, memory_path: path } = self;
        let memory = saved
            .memory
            .map(memory, ranges)
            .map_err(|source| RestoreError::Memory { path, source })?;
        Ok((saved, memory))
    }
}

/// The file's bytes, one more at most than a state has.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // What most have, so that one read gets it.
    let mut bytes = Vec::with_capacity(32 << 10);
    File::open(path)?.take(frame::MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
