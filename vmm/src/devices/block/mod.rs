//! The block device (virtio 1.3, 5.2): one queue, served by the disk's own thread.
//!
//! Why a thread and not io_uring: the files of an image are mostly in the host's page cache, where preadv(2) into guest
//! memory is one system call and no waiting; a thread that waits on the queue's doorbell itself needs no hand-over between threads;
//! and io_uring is switched off on many hosts and is a wide door to leave open in a jail. The thread is there while the disk is used
//! ([`super::virtio::Crew`]). Its stack is small: 64 KiB reserved, about 8 KiB touched.

mod config;
mod disk;
mod request;
mod state;
mod vectored;
mod worker;

#[cfg(test)]
pub(super) mod tests;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

pub use self::state::BlockState;
use self::{config::ConfigSpace, disk::Disk, worker::Service};
use super::{
    BlockCounts,
    media::{Change, ExchangeError},
    virtio::{
        ActivateError, Crew, DeviceKind, DeviceState, Resources, RestoreError, Running, Version,
        VirtioDevice,
    },
};
use crate::{
    api::{self, Slot},
    program::chain,
};

/// Bytes in a sector, the unit of the protocol whatever the block size (virtio 1.3, 5.2.6).
const SECTOR: u64 = 512;
/// The queue's largest size. A guest's driver prepares one request for each entry when it starts, so more of them cost boot time.
const QUEUE_SIZE: u16 = 64;
/// The most buffers that hold the data of one request: a chain cannot be longer than the queue, and needs a header and a status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// The most bytes in one of those buffers.
const SIZE_MAX: u32 = 256 << 10;
/// The most bytes of data in one request.
const MAX_DATA: usize = SEG_MAX as usize * SIZE_MAX as usize;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The identifier does not fit.
    #[error("the disk id {id:?} is not 1 to 20 printable ASCII characters")]
    Id {
        /// The identifier.
        id: String,
    },
    /// A file could not be opened.
    #[error("disk {id}: cannot open {path} {how}")]
    Open {
        /// The disk.
        id: String,
        /// The file.
        path: PathBuf,
        /// For reading or for writing too.
        how: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Something that is neither a file nor a block device.
    #[error("disk {id}: {path} is neither a regular file nor a block device")]
    NotAFile {
        /// The disk.
        id: String,
        /// The file.
        path: PathBuf,
    },
    /// A descriptor that is open for something else.
    #[error("disk {id}: {path} is not open for {wanted}, as the disk is")]
    Mode {
        /// The disk.
        id: String,
        /// The descriptor.
        path: PathBuf,
        /// For what it must be.
        wanted: &'static str,
    },
    /// A file that ends within a sector.
    #[error(
        "disk {id}: {path} has {length} bytes, not a multiple of 512; only the last file of a read-only disk may"
    )]
    Unaligned {
        /// The disk.
        id: String,
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// The lengths of the files overflow.
    #[error("disk {id}: its files have more than 2^64 bytes in all")]
    TooLarge {
        /// The disk.
        id: String,
    },
}

/// A disk. Dropping it closes its files. Without files it is a slot: a disk of no sectors, until a machine that
/// goes on from a saved one gives it some, or somebody does while it runs.
#[derive(Debug)]
pub struct Block {
    state: BlockState,
    config: ConfigSpace,
    service: Arc<Service>,
}

/// A disk's open files.
#[derive(Debug)]
pub struct Files {
    id: String,
    backend: Disk,
    read_only: bool,
}

impl Files {
    /// Opens them.
    ///
    /// # Errors
    /// [`BlockError`], which names the file.
    pub fn open(disk: &api::Disk) -> Result<Self, BlockError> {
        let id = &disk.id;
        if id.is_empty()
            || id.len() > request::ID_LENGTH
            || !id.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(BlockError::Id { id: id.clone() });
        }
        let backend = Disk::open(disk)?;
        Ok(Self { id: id.clone(), backend, read_only: disk.read_only })
    }
}

impl Block {
    /// A disk of these files.
    #[must_use]
    pub fn new(files: Files) -> Self {
        let Files { id, backend, read_only } = files;
        let sectors = backend.sectors();
        let config = ConfigSpace::new(sectors, read_only);
        let state = BlockState { version: Version, id: id.clone(), read_only, sectors };
        let service = Service { id, disk: Mutex::new(backend), counts: Arc::default() };
        Self { state, config, service: Arc::new(service) }
    }

    #[cfg(test)]
    pub(super) fn open(disk: &api::Disk) -> Result<Self, BlockError> {
        Files::open(disk).map(Self::new)
    }

    /// What the disk counts; the handle stays good after the disk was attached.
    #[must_use]
    pub fn counts(&self) -> Arc<BlockCounts> {
        self.service.counts.clone()
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn own_threads(&self) -> bool {
        true
    }

    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError> {
        Ok(Box::new(Crew::new(&self.service, resources, 1)?))
    }

    fn has_slot(&self, slot: &Slot) -> bool {
        matches!(slot, Slot::Disk(id) if *id == self.state.id)
    }

    fn exchange(&mut self, change: Change) -> Result<bool, ExchangeError> {
        let (slot, filled) = (change.slot(), self.state.sectors != 0);
        let BlockState { id, read_only, .. } = &self.state;
        let disk = match change {
            Change::Insert(..) if filled => return Err(ExchangeError::Taken(slot)),
            Change::Eject(_) if !filled => return Err(ExchangeError::Empty(slot)),
            Change::Insert(_, files) => Disk::adopt(id, *read_only, files)
                .map_err(|error| ExchangeError::Unfit { slot: slot.clone(), why: chain(&error) })?,
            Change::Eject(_) => Disk::empty(id, *read_only),
        };
        if !filled && disk.sectors() == 0 {
            return Err(ExchangeError::Unfit { slot, why: "the medium has no bytes".to_owned() });
        }
        self.state.sectors = disk.sectors();
        self.config.set_sectors(disk.sectors());
        // Waits for the request that is under way.
        *self.service.disk.lock().unwrap_or_else(PoisonError::into_inner) = disk;
        Ok(true)
    }

    fn state(&self) -> DeviceState {
        DeviceState::Block(self.state.clone())
    }

    fn check(&self, saved: &DeviceState) -> Result<bool, RestoreError> {
        if let DeviceState::Block(saved) = saved { self.state.check(saved) } else { Ok(false) }
    }
}
