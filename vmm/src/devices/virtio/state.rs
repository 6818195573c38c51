//! What a device is while its machine stands still, as a file keeps it: the transport's registers, how far the queues are, and what
//! the device itself has to say. Nothing of it is trusted when it comes back: [`super::MmioTransport::restore`] accepts only what a
//! driver could have brought about.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{ActivateError, DeviceKind};
use crate::devices::{
    balloon::BalloonState, block::BlockState, fs::FsState, net::NetState, rng::RngState,
    vsock::VsockState,
};

/// One device behind its transport (virtio 1.3, 4.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// Of this type.
    pub version: Version<1>,
    /// `Status` without `NEEDS_RESET`, which is `broken`.
    pub status: u32,
    /// The device cannot go on until the driver resets it.
    pub broken: bool,
    /// The features that the device offers.
    pub offered: u64,
    /// The features that the driver accepted so far.
    pub accepted: u64,
    /// `DeviceFeaturesSel`.
    pub offered_half: u32,
    /// `DriverFeaturesSel`.
    pub accepted_half: u32,
    /// `QueueSel`.
    pub selected_queue: u32,
    /// `ConfigGeneration`.
    pub generation: u32,
    /// `InterruptStatus`.
    pub interrupt: u32,
    /// As many as the device has.
    pub queues: Vec<QueueState>,
    /// What is behind the transport.
    pub device: DeviceState,
}

/// One queue: where the driver put it, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// `QueueSize`, as the driver wrote it.
    pub size: u32,
    /// `QueueReady`.
    pub ready: bool,
    /// The guest's address of the descriptor table.
    pub descriptors: u64,
    /// The guest's address of the available ring.
    pub driver: u64,
    /// The guest's address of the used ring.
    pub device: u64,
    /// The index of the next chain, in the available ring and in the used ring alike: every chain that was taken was given back.
    /// 0 while no driver runs the device.
    pub next: u16,
}

/// What a device itself has to say; the type stands beside the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// A disk.
    Block(BlockState),
    /// A share.
    Fs(FsState),
    /// The source of random bytes.
    Rng(RngState),
    /// The socket device.
    Vsock(VsockState),
    /// The memory balloon.
    Balloon(BalloonState),
    /// A network card.
    Net(NetState),
}

impl DeviceState {
    /// The name of the device's kind, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let kind = match self {
            Self::Block(_) => DeviceKind::Block,
            Self::Fs(_) => DeviceKind::Fs,
            Self::Rng(_) => DeviceKind::Rng,
            Self::Vsock(_) => DeviceKind::Vsock,
            Self::Balloon(_) => DeviceKind::Balloon,
            Self::Net(_) => DeviceKind::Net,
        };
        kind.name()
    }
}

/// The version of a state's type. Another version is refused where the state is decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Version<const N: u16>;

impl<const N: u16> Serialize for Version<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(N)
    }
}

impl<'de, const N: u16> Deserialize<'de> for Version<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = u16::deserialize(deserializer)?;
        if found != N {
            let why = format!("a device's state of version {found}, where only {N} is known");
            return Err(D::Error::custom(why));
        }
        Ok(Self)
    }
}

/// Why a device cannot be saved now. It goes on as though it had not been asked.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Something is under way that cannot be taken along.
    #[error("the {device} device is busy: {why}; save the machine when that is over")]
    Busy {
        /// The device.
        device: &'static str,
        /// What is under way.
        why: String,
    },
}

/// Why a device cannot go on from a state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is the state of another kind of device.
    #[error("the state of a {found} device is given to the {device} device")]
    Kind {
        /// The device.
        device: &'static str,
        /// Whose state it is.
        found: &'static str,
    },
    /// The saved device and this one are not the same.
    #[error("the {device} device's {what} was {saved} when it was saved and is {here} now")]
    Differs {
        /// The device.
        device: &'static str,
        /// What differs.
        what: &'static str,
        /// As it was.
        saved: String,
        /// As it is.
        here: String,
    },
    /// No driver could have brought the device into this state.
    #[error("the {device} device's saved {what} is {value:#x}, which cannot be")]
    Impossible {
        /// The device.
        device: &'static str,
        /// Where.
        what: &'static str,
        /// What is there.
        value: u64,
    },
    /// A queue that this machine cannot have.
    #[error(
        "the {device} device's saved queue {index} cannot be: its size, its areas in the guest's memory or its index is wrong"
    )]
    Queue {
        /// The device.
        device: &'static str,
        /// Which.
        index: usize,
    },
    /// The device did not start.
    #[error(transparent)]
    Start(#[from] ActivateError),
}

/// A running device that was stopped: how far its queues are, and its own state if that is more than the idle device knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// [`super::Virtqueue::position`] of each queue.
    pub positions: Vec<u16>,
    /// Instead of [`super::VirtioDevice::state`].
    pub device: Option<DeviceState>,
}
