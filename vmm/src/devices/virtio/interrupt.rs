//! A device's one interrupt line, the bits that say why it was raised, and the number of its configuration. Shared by the transport and the running
//! device.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// `InterruptStatus`, bit 0: the device used a buffer (virtio 1.3, 4.2.2).
const USED: u32 = 1;
/// `InterruptStatus`, bit 1: the configuration or the device's status changed.
const CONFIG: u32 = 2;

/// Raises the device's interrupt.
#[derive(Debug)]
pub struct Interrupt {
    line: EventFd,
    pending: AtomicU32,
    broken: AtomicBool,
    generation: AtomicU32,
}

impl Interrupt {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            line: EventFd::new(EFD_NONBLOCK)?,
            pending: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            generation: AtomicU32::new(0),
        })
    }

    /// The event descriptor that becomes the irqfd.
    pub(super) fn line(&self) -> &EventFd {
        &self.line
    }

    /// Tells the driver that buffers were used.
    pub fn used(&self) {
        self.raise(USED);
    }

    /// Tells the driver that the device cannot go on until it is reset (`NEEDS_RESET`; virtio 1.3, 2.1.2).
    pub fn needs_reset(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.raise(CONFIG);
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&self) {
        self.next_generation();
        self.raise(CONFIG);
    }

    /// The configuration space is another one: what a driver read of it before does not go with what it reads now.
    pub(super) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The `ConfigGeneration` register.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Why the interrupt was raised and not yet acknowledged: the `InterruptStatus` register.
    pub(super) fn pending(&self) -> u32 {
        self.pending.load(Ordering::SeqCst)
    }

    /// The driver's acknowledgement of `bits`.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.pending.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Whether [`Interrupt::needs_reset`] was called since the last reset.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Forgets everything but the generation, as a device reset does.
    pub(super) fn clear(&self) {
        self.broken.store(false, Ordering::SeqCst);
        self.pending.store(0, Ordering::SeqCst);
    }

    /// Is as another was saved: `pending` is why that was raised, and what is pending is raised here again.
    pub(super) fn restore(&self, pending: u32, broken: bool, generation: u32) {
        self.generation.store(generation, Ordering::SeqCst);
        self.broken.store(broken, Ordering::SeqCst);
        if pending != 0 {
            self.raise(pending);
        }
    }

    fn raise(&self, bits: u32) {
        self.pending.fetch_or(bits, Ordering::SeqCst);
        // It fails only when the counter is full, and then the interrupt is pending anyway.
        let _ = self.line.write(1);
    }
}
