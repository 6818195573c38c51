//! The socket device (virtio 1.3, 5.10): stream connections between ports of the guest and Unix sockets of the host.
//!
//! A guest's connection to port `N` of CID 2 becomes one to the Unix socket `<path>_N`. A connection to `<path>` that says
//! `CONNECT N\n` becomes one to port `N` of the guest and is answered `OK <host port>\n`, or closed.
//!
//! Host descriptors are watched by an epoll instance of the device's own, which is itself one descriptor of the event loop:
//! connections then come and go under the device's lock alone, whichever thread holds it.

mod credit;
mod from_guest;
mod from_host;
mod host;
mod packet;
mod place;
mod running;
mod state;
mod stream;
mod table;
mod to_guest;

#[cfg(test)]
pub(super) mod tests;

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::event::epoll;

pub use self::state::VsockState;
use self::{
    place::{MAX_NAME, Place},
    running::RunningVsock,
};
use super::{
    VsockCounts,
    virtio::{
        ActivateError, DeviceKind, DeviceState, Resources, RestoreError, Running, VirtioDevice,
        feature,
    },
};
use crate::api;

/// `VIRTIO_VSOCK_F_STREAM`.
const F_STREAM: u64 = 1;
/// The largest sizes of the receive, transmit and event queues. A Linux driver fills the receive queue with 4 KiB buffers of two
/// descriptors each when it starts, so more of them cost boot time and memory; without indirect descriptors it makes no table for each.
const QUEUE_SIZES: [u16; 3] = [64, 64, 8];

/// Why the device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The context id is reserved.
    #[error("the guest's vsock context id is {cid}; it must be 3 or more, and not 4294967295")]
    Cid {
        /// The context id.
        cid: u32,
    },
    /// The name does not fit into a socket address.
    #[error("the vsock path {path} does not end in a name of 1 to {MAX_NAME} bytes")]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on the vsock path {path}")]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host gave no epoll instance.
    #[error("cannot watch the sockets of the vsock device")]
    Epoll(#[source] io::Error),
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    cid: u32,
    listener: Arc<Listener>,
    epoll: Arc<OwnedFd>,
    counts: Arc<VsockCounts>,
}

impl Vsock {
    /// Listens on the Unix socket. Connections wait there until the guest's driver is ready.
    ///
    /// # Errors
    /// [`VsockError`]; a file that is already at the path is one.
    pub fn bind(config: &api::Vsock) -> Result<Self, VsockError> {
        let api::Vsock { cid, path } = config.clone();
        if cid < 3 || cid == u32::MAX {
            return Err(VsockError::Cid { cid });
        }
        let error = |source| VsockError::Bind { path: path.clone(), source };
        let Some(place) = Place::of(&path).map_err(error)? else {
            return Err(VsockError::Name { path });
        };
        let socket = UnixListener::bind(place.listener()).map_err(error)?;
        let listener = Arc::new(Listener { socket, place });
        listener.socket.set_nonblocking(true).map_err(error)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| VsockError::Epoll(error.into()))?;
        Ok(Self { cid, listener, epoll: Arc::new(epoll), counts: Arc::default() })
    }

    /// The directory of the sockets of `path`.
    #[must_use]
    pub fn directory(path: &Path) -> &Path {
        place::directory_of(path)
    }

    /// The directory of the sockets is at this path from now on. To be called before the device is attached.
    pub fn moved_to(&mut self, directory: PathBuf) {
        if let Some(listener) = Arc::get_mut(&mut self.listener) {
            listener.place.moved_to(directory);
        }
    }

    fn run(&self, resources: Resources) -> Result<RunningVsock, ActivateError> {
        let (listener, epoll) = (self.listener.clone(), self.epoll.clone());
        RunningVsock::new(self.cid, listener, epoll, self.counts.clone(), resources)
    }

    /// What the device counts; the handle stays good after it was attached.
    #[must_use]
    pub fn counts(&self) -> Arc<VsockCounts> {
        self.counts.clone()
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn features(&self) -> u64 {
        feature::EVENT_IDX | F_STREAM
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_vsock_config: the guest's context id.
        let config = u64::from(self.cid).to_le_bytes();
        let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
        for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
            *to = *from;
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError> {
        Ok(Box::new(self.run(resources)?))
    }

    fn state(&self) -> DeviceState {
        DeviceState::Vsock(VsockState::new(self.cid.into()))
    }

    fn check(&self, saved: &DeviceState) -> Result<bool, RestoreError> {
        if let DeviceState::Vsock(saved) = saved {
            saved.check(self.cid.into())?;
        }
        Ok(false)
    }

    fn go_on(
        &mut self,
        resources: Resources,
        saved: &DeviceState,
    ) -> Result<Box<dyn Running>, ActivateError> {
        let mut running = self.run(resources)?;
        if let DeviceState::Vsock(saved) = saved {
            running.restore(saved);
        }
        Ok(Box::new(running))
    }
}

/// The listening socket and its file.
#[derive(Debug)]
struct Listener {
    socket: UnixListener,
    place: Place,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it already, and from its jail the process cannot: the directory's owner does then.
        let _ = std::fs::remove_file(self.place.listener());
    }
}
