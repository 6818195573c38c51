//! The network device (virtio 1.3, 5.1): one pair of queues between the guest and a tap interface of the host, on the event loop. Frames go
//! from the tap's system calls straight into the guest's buffers and back; what a tap does not take or give at once waits in it.
//!
//! ```text
//!   guest's receive queue  <- rx <- readv(2) \
//!                                             port: a tap, with 12 bytes of header before each frame
//!   guest's transmit queue -> tx -> writev(2) /
//! ```
//!
//! Without a tap the device is a slot: its link is down, it swallows what is sent. A machine that goes on from a saved one may have a tap in its
//! place; the driver is then told that the link is up.

mod device;
mod frame;
mod port;
mod room;
mod running;
mod rx;
mod state;
mod tap;
mod tx;

#[cfg(test)]
pub(super) mod tests;

pub use self::{device::Net, state::NetState, tap::NetError};
