//! The files that a machine is saved into: made before the process is shut in, written when it is asked for.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{Identity, MemoryShape, SavedMachine};
use crate::{api::SnapshotFiles, boot::random, memory::GuestMemory};

/// Why the files could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// One could not be made.
    #[error("cannot make {path}, which the machine is to be saved into")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process's own memory.
    #[error("cannot open /proc/self/pagemap")]
    Pages(#[source] io::Error),
    /// The host's generator.
    #[error("cannot get a random number for the saved machine: {0}")]
    Random(io::Error),
    /// One could not be written.
    #[error("cannot write the saved machine to {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is more than a file can hold.
    #[error("the machine's state cannot be saved: {0}")]
    Encode(String),
    /// They have a machine already.
    #[error("the machine was saved already")]
    Twice,
}

/// The files.
#[derive(Debug)]
pub struct Target {
    files: SnapshotFiles,
    state: File,
    memory: File,
    pagemap: File,
    identity: Identity,
    written: bool,
}

impl Target {
    /// Makes the files of the machine `identity`; readable and writable for this user only.
    ///
    /// # Errors
    /// [`SaveError`]. A file that was made before the error is removed.
    pub fn create(files: &SnapshotFiles, identity: Identity) -> Result<Self, SaveError> {
        let pagemap = File::open("/proc/self/pagemap").map_err(SaveError::Pages)?;
        let state = create(&files.state)?;
        let memory = create(&files.memory).inspect_err(|_| {
            // Made above, and empty; where it is gone already all is well.
            let _ = std::fs::remove_file(&files.state);
        })?;
        Ok(Self { files: files.clone(), state, memory, pagemap, identity, written: false })
    }

    /// What the machine is and where it runs.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether a machine can be written.
    ///
    /// # Errors
    /// [`SaveError::Twice`].
    pub fn check(&self) -> Result<(), SaveError> {
        if self.written { Err(SaveError::Twice) } else { Ok(()) }
    }

    /// Writes `memory`, which nobody changes meanwhile, and the state that `saved` makes of its shape.
    ///
    /// # Errors
    /// [`SaveError`]: the state file stays empty, and another try may follow.
    pub fn write(
        &mut self,
        memory: &GuestMemory,
        saved: impl FnOnce(MemoryShape) -> SavedMachine,
    ) -> Result<(), SaveError> {
        self.check()?;
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |source| SaveError::Write { path, source }
        };
        let shape = MemoryShape::new(memory, random().map_err(SaveError::Random)?);
        let state = saved(shape.clone()).encode().map_err(SaveError::Encode)?;
        self.memory.set_len(0).map_err(wrong(&self.files.memory))?;
        let outcome = shape
            .write(memory, &self.pagemap, &mut self.memory)
            .map_err(wrong(&self.files.memory))
            .and_then(|()| self.write_state(&state).map_err(wrong(&self.files.state)));
        if outcome.is_err() {
            // Room for others. What cannot be emptied is not whole: the state belongs to no memory, or there is none.
            let _ = self.state.set_len(0).and_then(|()| self.memory.set_len(0));
        }
        self.written = outcome.is_ok();
        outcome
    }

    /// Last: an empty state is no machine.
    fn write_state(&mut self, state: &[u8]) -> io::Result<()> {
        use std::io::Seek;
        self.state.rewind()?;
        self.state.write_all(state)?;
        self.state.sync_all()
    }
}

fn create(path: &Path) -> Result<File, SaveError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| SaveError::Create { path: path.to_owned(), source })
}
