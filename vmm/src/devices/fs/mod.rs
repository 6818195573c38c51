//! The file system device (virtio 1.3, 5.11): FUSE requests from the guest's kernel, answered from directories of the host.
//!
//! The server is our own and not a crate's: those that exist need `/proc` or a capability that opens any file of the host by number,
//! keep a descriptor for each file that a guest ever saw, and do not know unnamed files.

mod protocol;
mod reopen;
mod request;
mod server;
mod state;
mod worker;

#[cfg(test)]
pub(super) mod tests;

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::io::Errno;

pub use self::{reopen::Reopen, state::FsState};
use self::{
    server::{Access, Refusal, Server},
    worker::{QUEUES, Service},
};
use super::{
    FsCounts,
    media::{Change, ExchangeError},
    virtio::{
        ActivateError, Crew, DeviceKind, DeviceState, Resources, RestoreError, Running, Version,
        VirtioDevice, feature,
    },
};
use crate::{
    api::{Cache, Medium, Share, ShareEntry, Slot},
    validated::{MAX_NAME, is_name},
};

/// The sizes of the queue for urgent requests and of the one for the others. A request has as many buffers as pages and a few more, in the ring
/// itself: a table elsewhere would cost the driver an allocation for each request.
const QUEUE_SIZES: [u16; 2] = [16, 256];
/// The most pages in one request.
const MAX_PAGES: u16 = 128;
/// The most bytes in one request.
const MAX_TRANSFER: u32 = MAX_PAGES as u32 * 4096;
/// Bytes of the tag in the configuration space.
const TAG: usize = 36;
/// How long the guest may believe names and attributes of a share that it may cache.
const VALID: Duration = Duration::from_secs(1);

/// Why a share cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Its directory cannot be looked at.
    #[error("share {tag}: cannot look at its directory")]
    Root {
        /// The share.
        tag: String,
        /// Why.
        source: Errno,
    },
}

/// The device. Dropping it closes its files.
#[derive(Debug)]
pub struct Fs {
    tag: [u8; TAG],
    state: FsState,
    service: Arc<Service>,
}

impl Fs {
    /// Serves `share`, whose entries are in the directory `root`, an `O_PATH` descriptor. `files`: how many descriptors it may use.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn new(
        share: &Share,
        root: OwnedFd,
        reopen: Arc<Reopen>,
        files: usize,
    ) -> Result<Self, FsError> {
        let tag = share.tag.clone();
        let access =
            |entry: &ShareEntry| Access { read_only: entry.read_only, sealed: entry.sealed };
        let entries =
            share.entries.iter().map(|entry| (entry.name.clone().into_bytes(), access(entry)));
        let valid = match share.cache {
            Cache::Auto => VALID,
            Cache::None => Duration::ZERO,
        };
        let server = Server::new(root, entries, valid, reopen, files)
            .map_err(|source| FsError::Root { tag: tag.clone(), source })?;
        let service =
            Service { tag: tag.clone(), server: Arc::new(server), counts: Arc::default() };
        let mut field = [0; TAG];
        for (to, from) in field.iter_mut().zip(tag.bytes()) {
            *to = from;
        }
        let state = FsState { version: Version, tag };
        Ok(Self { tag: field, state, service: Arc::new(service) })
    }

    /// What the share counts; the handle stays good after it was attached.
    #[must_use]
    pub fn counts(&self) -> Arc<FsCounts> {
        self.service.counts.clone()
    }
}

impl VirtioDevice for Fs {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Fs
    }

    fn features(&self) -> u64 {
        feature::EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_fs_config: the tag and the number of request queues.
        let config = self.tag.into_iter().chain(1u32.to_le_bytes());
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(config.skip(skip)) {
            *to = from;
        }
    }

    fn own_threads(&self) -> bool {
        true
    }

    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError> {
        Ok(Box::new(Crew::new(&self.service, resources, QUEUES)?))
    }

    fn has_slot(&self, slot: &Slot) -> bool {
        matches!(slot, Slot::Entry { share, .. } if *share == self.state.tag)
    }

    fn exchange(&mut self, change: Change) -> Result<bool, ExchangeError> {
        let slot = change.slot();
        let done = match change {
            Change::Insert(Medium::Entry { name, read_only, sealed, .. }, files) => {
                match <[OwnedFd; 1]>::try_from(files) {
                    _ if !is_name(&name, MAX_NAME) => {
                        Err(Refusal::Unfit("it is no file name".into()))
                    }
                    Ok([file]) => {
                        self.service.server.give(&name, Access { read_only, sealed }, file)
                    }
                    Err(_) => Err(Refusal::Unfit("one descriptor is needed".into())),
                }
            }
            Change::Eject(Slot::Entry { name, .. }) => self.service.server.take(&name),
            Change::Insert(Medium::Disk { .. }, _) | Change::Eject(Slot::Disk(_)) => {
                return Err(ExchangeError::Unknown(slot));
            }
        };
        match done {
            Ok(()) => Ok(false),
            Err(Refusal::Taken) => Err(ExchangeError::Taken(slot)),
            Err(Refusal::Missing) => Err(ExchangeError::Empty(slot)),
            Err(Refusal::Unfit(why)) => Err(ExchangeError::Unfit { slot, why }),
        }
    }

    fn state(&self) -> DeviceState {
        DeviceState::Fs(self.state.clone())
    }

    fn check(&self, saved: &DeviceState) -> Result<bool, RestoreError> {
        if let DeviceState::Fs(saved) = saved {
            self.state.check(saved)?;
        }
        Ok(false)
    }
}
