//! A machine at rest in two files, and a machine that goes on from them.
//!
//! The *state* file has what the machine is, and the state of its processors, interrupt controllers, devices and clock: a frame around the
//! `postcard` encoding of [`SavedMachine`]. The *memory* file has guest memory as it is, so that it can be mapped. The state is
//! written last: while it is empty there is no saved machine. Both are read only after their frames were checked, and every part of the state
//! is checked again by whoever goes on from it.

mod frame;
mod identity;
mod memory;
mod saver;
mod source;
mod target;

use serde::{Deserialize, Serialize};

pub use frame::FrameError;
pub use identity::{Difference, FileIdentity, Identity, Kind, Place, Shape};
pub use memory::{MemoryShape, ShapeError};
pub use saver::{Saver, SaverError};
pub use source::{RestoreError, Source};
pub use target::{SaveError, Target};

use crate::{
    arch::current::state::{ChipState, VcpuState},
    devices::virtio::TransportState,
    serial::SerialRegisters,
};

/// Everything about a machine but the contents of its memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedMachine {
    /// What it is and where it ran.
    pub identity: Identity,
    /// On what kind of KVM.
    pub kind: Kind,
    /// Which memory belongs to it.
    pub memory: MemoryShape,
    /// Its processors.
    pub vcpus: Vec<VcpuState>,
    /// What they share.
    pub chips: ChipState,
    /// The serial port.
    pub serial: Option<SerialRegisters>,
    /// Its virtio devices in their order.
    pub devices: Vec<TransportState>,
}

impl SavedMachine {
    /// The state file's contents.
    ///
    /// # Errors
    /// One line that says why not: it is too long.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let body = postcard::to_stdvec(self).map_err(|error| error.to_string())?;
        frame::seal(&body).map_err(|error| error.to_string())
    }

    /// Reads a state file's contents. Takes memory in proportion to them, of which there are at most [`frame::MAX_FILE`] bytes.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(file: &[u8]) -> Result<Self, DecodeError> {
        let body = frame::open(file)?;
        let (saved, rest) = postcard::take_from_bytes(body).map_err(DecodeError::Body)?;
        if rest.is_empty() { Ok(saved) } else { Err(DecodeError::TooMuch(rest.len())) }
    }
}

/// Why a file is no saved machine.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Its frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What is in the frame.
    #[error("what it says cannot be understood ({0}); save the machine again")]
    Body(postcard::Error),
    /// There is more than belongs there.
    #[error("{0} bytes of it belong to nothing; save the machine again")]
    TooMuch(usize),
}

#[cfg(test)]
mod tests;
