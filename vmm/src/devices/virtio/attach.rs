//! Puts a device behind an MMIO transport and the transport into the event loop.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::EventFd;

use super::{MmioTransport, VirtioDevice};
use crate::memory::GuestMemory;

/// Why a device could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No event descriptor.
    #[error("cannot make the event descriptors of the {name} device")]
    EventFd {
        /// The device.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The event loop does not take the device's descriptors.
    #[error("cannot watch the descriptors of the {name} device")]
    Watch {
        /// The device.
        name: &'static str,
        /// Why.
        source: event_manager::Error,
    },
}

/// An attached device: what the machine needs to map it into the guest.
pub struct Attached {
    /// Answers the accesses of the virtual CPUs to the device's MMIO page.
    pub transport: Arc<Mutex<MmioTransport>>,
    /// One for each queue, to be registered as ioeventfd: 4 bytes at offset 0x50, the queue's index as the value.
    pub doorbells: Vec<EventFd>,
    /// To be registered as the irqfd of the device's interrupt.
    pub interrupt: EventFd,
    /// The device's kind, for messages.
    pub name: &'static str,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Attaches `device`. The event loop owns a share of it from then on.
///
/// # Errors
/// [`AttachError`].
pub fn attach<D: VirtioDevice + 'static>(
    device: D,
    memory: GuestMemory,
    events: &mut EventManager<Arc<Mutex<dyn MutEventSubscriber + Send>>>,
) -> Result<Attached, AttachError> {
    let name = device.kind().name();
    let transport = MmioTransport::new(Box::new(device), memory)
        .map_err(|source| AttachError::EventFd { name, source })?;
    let (doorbells, interrupt) =
        transport.event_fds().map_err(|source| AttachError::EventFd { name, source })?;
    let transport = Arc::new(Mutex::new(transport));
    events.add_subscriber(transport.clone());
    let watched = transport.lock().unwrap_or_else(PoisonError::into_inner).take_watch_result();
    watched.map_err(|source| AttachError::Watch { name, source })?;
    Ok(Attached { transport, doorbells, interrupt, name })
}
