//! What a device must do to be attached to an MMIO transport.

use std::{io, os::fd::BorrowedFd, sync::Arc};

use vmm_sys_util::eventfd::EventFd;

use super::{DeviceState, Interrupt, QueueError, RestoreError, SaveError, Stopped, Virtqueue};
use crate::{
    api::Slot,
    devices::media::{Change, ExchangeError},
    memory::GuestMemory,
};

/// The device's type (virtio 1.3, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A network card.
    Net = 1,
    /// A disk.
    Block = 2,
    /// A source of random bytes.
    Rng = 4,
    /// A memory balloon.
    Balloon = 5,
    /// A socket device.
    Vsock = 19,
    /// A file system.
    Fs = 26,
}

impl DeviceKind {
    /// The name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Net => "network",
            DeviceKind::Block => "block",
            DeviceKind::Rng => "rng",
            DeviceKind::Balloon => "balloon",
            DeviceKind::Vsock => "vsock",
            DeviceKind::Fs => "file system",
        }
    }
}

/// Why a device did not start.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The host refused something.
    #[error("the device cannot start")]
    Io(#[from] io::Error),
    /// A queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The transport gave fewer queues than [`VirtioDevice::queue_sizes`] names.
    #[error("the device needs {0} queues")]
    Queues(usize),
}

/// Something happened that a running device should look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The driver rang the doorbell of this queue.
    Doorbell(usize),
    /// The descriptor of [`VirtioDevice::source`] is ready.
    Source,
}

/// What a device gets when the driver is ready, and has until it is reset.
#[derive(Debug)]
pub struct Resources {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// The queues, as many as [`VirtioDevice::queue_sizes`] names, each checked against the memory.
    pub queues: Vec<Virtqueue>,
    /// Tells the driver.
    pub interrupt: Arc<Interrupt>,
    /// The features that the driver accepted.
    pub features: u64,
    /// Where [`VirtioDevice::own_threads`] is true: rung when [`Running::has_threads`] has become false.
    pub rest: Option<EventFd>,
}

/// A device as long as no driver runs it: it has no guest memory.
///
/// All calls are made under the transport's lock. State that must outlive a reset (files, a listening socket) belongs
/// here; what belongs to one activation goes into the [`Running`] value.
pub trait VirtioDevice: Send {
    /// What it is.
    fn kind(&self) -> DeviceKind;

    /// The feature bits to offer: those of the device type and those of [`super::feature`] that serve it.
    fn features(&self) -> u64;

    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Fills `data` from the configuration space, with zeros beyond its end.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// A host descriptor whose readiness to be read is [`Event::Source`], watched for as long as the device is attached.
    /// It must not be ready while the device does not run.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// True: the running device may have threads that wait on the queues' doorbells ([`Running::has_threads`]). False: the event loop
    /// alone waits on them and calls [`Running::process`].
    fn own_threads(&self) -> bool {
        false
    }

    /// Starts the device: the driver has set `DRIVER_OK`.
    ///
    /// # Errors
    /// The transport then sets `NEEDS_RESET`.
    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError>;

    /// Whether it has this slot.
    fn has_slot(&self, _slot: &Slot) -> bool {
        false
    }

    /// Puts a medium into a slot that it has, or takes one out, whether a driver runs it or not. Nothing uses what was taken out when this returns.
    /// True: the configuration space is another one than before.
    ///
    /// # Errors
    /// [`ExchangeError`]; nothing has changed then.
    fn exchange(&mut self, change: Change) -> Result<bool, ExchangeError> {
        Err(ExchangeError::Unknown(change.slot()))
    }

    /// What makes this device the one that the driver knows, and nothing of what it does for the driver.
    fn state(&self) -> DeviceState;

    /// Whether this device can take the place of one that was saved as `saved`, a state of the same kind. Everything in it comes from a
    /// file and is to be checked. True: the configuration space is another one than the driver knows.
    ///
    /// # Errors
    /// [`RestoreError`] says what differs or cannot be.
    fn check(&self, saved: &DeviceState) -> Result<bool, RestoreError>;

    /// Starts the device where another left off that was saved as `saved`, which was checked. The queues are where they were.
    ///
    /// # Errors
    /// As [`VirtioDevice::activate`].
    fn go_on(
        &mut self,
        resources: Resources,
        _saved: &DeviceState,
    ) -> Result<Box<dyn Running>, ActivateError> {
        self.activate(resources)
    }
}

/// A device that a driver runs. Dropping it is the reset: when `drop` returns, nothing touches guest memory any more.
pub trait Running: Send {
    /// Looks at what happened, on the event-loop thread and under the transport's lock. It must not block.
    ///
    /// # Errors
    /// A ring that makes no sense; the transport drops the device and sets `NEEDS_RESET`.
    fn process(&mut self, event: Event) -> Result<(), QueueError>;

    /// Whether threads of the device answer its doorbells now, so that the event loop leaves them alone.
    fn has_threads(&self) -> bool {
        false
    }

    /// Ends what is under way, so that every chain that was taken is given back, and touches guest memory no more until
    /// [`Running::resume`] or the reset. [`Running::process`] is not called meanwhile.
    ///
    /// # Errors
    /// [`SaveError`], when something under way can neither be ended nor taken along. [`Running::resume`] is called then too.
    fn stop(&mut self) -> Result<Stopped, SaveError>;

    /// Goes on after [`Running::stop`]. The queues' doorbells ring afterwards.
    ///
    /// # Errors
    /// The transport then drops the device and sets `NEEDS_RESET`.
    fn resume(&mut self) -> Result<(), ActivateError> {
        Ok(())
    }
}
