//! What every virtio device shares: the MMIO transport, queues and descriptor chains, the interrupt, and the traits that
//! a device implements.

mod attach;
mod chain;
mod crew;
mod device;
mod interrupt;
mod queue;
mod register;
mod saving;
mod state;
mod status;
mod transport;
mod vectors;
mod watch;

#[cfg(test)]
mod tests;

pub use attach::{AttachError, Attached, attach};
pub use chain::{Chain, ChainFault, Slices};
pub use crew::{Crew, Lead, Rings, Work};
pub use device::{ActivateError, DeviceKind, Event, Resources, Running, VirtioDevice};
pub use interrupt::Interrupt;
pub use queue::{QueueError, Virtqueue};
pub use state::{
    DeviceState, QueueState, RestoreError, SaveError, Stopped, TransportState, Version,
};
pub use transport::MmioTransport;
pub use vectors::IoVectors;

/// Feature bits that belong to no device type (virtio 1.3, 6).
pub mod feature {
    /// `VIRTIO_F_INDIRECT_DESC`: a chain may be a table elsewhere in memory, so that it takes one entry of the ring.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `VIRTIO_F_EVENT_IDX`: each side says at which index it wants to be told.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// `VIRTIO_F_VERSION_1`: not a legacy device. The transport offers it for every device.
    pub const VERSION_1: u64 = 1 << 32;
}
