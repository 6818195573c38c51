//! The network card as long as no driver runs it: its configuration space, its tap, whether its link is up.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::epoll;

use super::{
    frame,
    port::{Link, Port},
    running::RunningNet,
    state::NetState,
    tap::{NetError, Tap},
};
use crate::{
    api,
    devices::{
        NetCounts,
        virtio::{
            ActivateError, DeviceKind, DeviceState, Resources, RestoreError, Running, Version,
            VirtioDevice, feature,
        },
    },
};

/// The largest sizes of the receive and transmit queues. Linux fills the receive queue when the interface goes up, so more of them cost time
/// and memory then. It fills it again when 32 buffers were used: with fewer than 128 of its 1.5 KiB buffers those that are left may not hold a frame of 64 KiB.
const QUEUE_SIZES: [u16; 2] = [128, 128];
/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// A network card.
#[derive(Debug)]
pub struct Net {
    mac: api::Mac,
    mtu: u16,
    host: Option<Host>,
    /// Whether frames can go through; the running device clears it when the tap is gone.
    up: Arc<AtomicBool>,
    counts: Arc<NetCounts>,
}

/// What a slot does not have.
#[derive(Debug)]
struct Host {
    port: Arc<dyn Port>,
    epoll: Arc<OwnedFd>,
}

impl Net {
    /// Opens the card's tap.
    ///
    /// # Errors
    /// [`NetError`], which names the tap.
    pub fn open(nic: &api::Nic) -> Result<Self, NetError> {
        let mac = nic.mac;
        let port = nic.tap.as_ref().map(|name| Tap::open(mac, name)).transpose()?;
        Self::new(nic, port.map(|tap| Arc::new(tap) as _))
            .map_err(|source| NetError::Epoll { mac, source })
    }

    pub(super) fn new(nic: &api::Nic, port: Option<Arc<dyn Port>>) -> io::Result<Self> {
        let host = match port {
            None => None,
            Some(port) => {
                let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
                Some(Host { port, epoll })
            }
        };
        let up = Arc::new(AtomicBool::new(host.is_some()));
        Ok(Self { mac: nic.mac, mtu: nic.mtu, host, up, counts: Arc::default() })
    }

    /// What it counts; the handle stays good after the device was attached.
    #[must_use]
    pub fn counts(&self) -> Arc<NetCounts> {
        self.counts.clone()
    }

    fn link(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    fn here(&self) -> NetState {
        NetState { version: Version, mac: self.mac, mtu: self.mtu, link: self.link() }
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    /// Those of a slot too, so that the driver of a saved machine knows what the tap of another will take. Without indirect descriptors Linux makes no
    /// table for each frame, 5 % of the instructions of sending.
    fn features(&self) -> u64 {
        feature::EVENT_IDX | frame::ALL
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config: mac, status, max_virtqueue_pairs, mtu.
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac.0);
        config[6..8].copy_from_slice(&(if self.link() { LINK_UP } else { 0 }).to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.to_le_bytes());
        let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
        for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
            *to = *from;
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        self.host.as_ref().map(|host| host.epoll.as_fd())
    }

    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError> {
        let link = match &self.host {
            Some(Host { port, epoll }) if self.link() => {
                // One that was deleted meanwhile does not answer: its first frame tells.
                let _ = port.accept(resources.features);
                Some(Link::new(port.clone(), epoll.clone())?)
            }
            _ => None,
        };
        let (up, counts) = (self.up.clone(), self.counts.clone());
        Ok(Box::new(RunningNet::new(link, up, self.mtu, counts, resources)?))
    }

    fn state(&self) -> DeviceState {
        DeviceState::Net(self.here())
    }

    fn check(&self, saved: &DeviceState) -> Result<bool, RestoreError> {
        if let DeviceState::Net(saved) = saved { self.here().check(saved) } else { Ok(false) }
    }
}
