//! The machine's virtio devices (virtio 1.3, modern devices only): [`block`], [`fs`], [`net`], [`vsock`], [`rng`],
//! [`balloon`], and what they share, [`virtio`].
//!
//! **Memory.** A device is made without guest memory. [`virtio::VirtioDevice::activate`] hands it the memory, the
//! queues and the interrupt when the driver sets `DRIVER_OK`, and they live in the [`virtio::Running`] value that it
//! returns and nowhere else; a reset drops that value. So code that holds no `Running` cannot touch guest memory.
//!
//! **Threads and locks.** One lock for each device: the one around its [`virtio::MmioTransport`]. Virtual CPU threads take
//! it for an MMIO exit, the event loop for a doorbell or a host descriptor. Nobody holds two devices' locks, and nothing
//! under the lock waits for a virtual CPU or for the event loop. The threads of a disk
//! or a share take none of these locks, so that a reset may wait for them while holding the transport's lock.
//!
//! **Standing still.** [`virtio::MmioTransport::save`] is called with the virtual CPUs paused, for one device after the other: each ends
//! what is under way and rests until [`virtio::MmioTransport::resume`]. [`virtio::MmioTransport::restore`] lets a new device go on over
//! memory that is in place already, before any virtual CPU runs.
//!
//! **Bad guests.** What a driver wrote is never trusted: a malformed chain is counted and answered, a ring that makes no
//! sense stops the device and sets `NEEDS_RESET`; neither ends the VMM.

pub mod balloon;
pub mod block;
mod counts;
pub mod fs;
pub mod media;
pub mod net;
pub mod rng;
pub mod virtio;
pub mod vsock;

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod testing;

pub use counts::{BalloonCounts, BlockCounts, FsCounts, NetCounts, VsockCounts};
