//! One virtqueue of a running device: chains come out, used buffers go in, and the driver is told once at the end.

use std::{
    io,
    sync::atomic::{Ordering, fence},
};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::Chain;
use crate::memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryTrait};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;

/// A ring that makes no sense: the device cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// What the ring says cannot be.
    #[error("the driver's queue is broken")]
    Ring(#[from] virtio_queue::Error),
}

/// Where the driver put a queue (virtio 1.3, 4.2.2: `QueueSize` to `QueueDeviceHigh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueConfig {
    pub(super) max_size: u16,
    pub(super) size: u32,
    pub(super) ready: bool,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
}

impl QueueConfig {
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: u32::from(max_size),
            ready: false,
            descriptors: 0,
            driver: 0,
            device: 0,
        }
    }

    /// Whether the size is allowed, the areas are aligned (virtio 1.3, 2.7) and all of them are guest memory.
    pub(super) fn is_valid(&self, memory: &GuestMemory) -> bool {
        let size = self.size as usize;
        let fits = |address: u64, alignment: u64, length: usize| {
            address != 0
                && address.is_multiple_of(alignment)
                && memory.check_range(GuestAddress(address), length)
        };
        self.size.is_power_of_two()
            && self.size <= u32::from(self.max_size)
            && fits(self.descriptors, 16, 16 * size)
            && fits(self.driver, 2, 6 + 2 * size)
            && fits(self.device, 4, 6 + 8 * size)
    }

    /// Makes the queue of a running device, which begins at index `next` of both rings. The configuration must be valid.
    pub(super) fn build(
        &self,
        event_idx: bool,
        next: u16,
        doorbell: EventFd,
    ) -> Result<Virtqueue, QueueError> {
        let mut queue = Queue::new(self.max_size)?;
        let size = u16::try_from(self.size).map_err(|_| virtio_queue::Error::InvalidSize)?;
        queue.try_set_size(size)?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors))?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
        queue.try_set_used_ring_address(GuestAddress(self.device))?;
        queue.set_event_idx(event_idx);
        queue.set_next_avail(next);
        queue.set_next_used(next);
        queue.set_ready(true);
        Ok(Virtqueue { queue, pushed: false, doorbell })
    }
}

/// A queue of a running device.
#[derive(Debug)]
pub struct Virtqueue {
    queue: Queue,
    /// Something was pushed since the driver was last told.
    pushed: bool,
    doorbell: EventFd,
}

impl Virtqueue {
    /// Takes the next chain that the driver made available; false when there is none. A malformed chain is delivered too,
    /// with its [`Chain::fault`].
    ///
    /// # Errors
    /// The available ring holds more chains than the queue.
    pub fn pop<'m>(
        &mut self,
        memory: &'m GuestMemory,
        chain: &mut Chain<'m>,
    ) -> Result<bool, QueueError> {
        let size = self.queue.size();
        match self.queue.iter(memory)?.next() {
            Some(descriptors) => {
                chain.fill(memory, descriptors, size);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Puts the last `count` chains that were popped, and not used, back to where they were.
    pub fn unpop(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Gives a chain back to the driver; `written` is the number of bytes written to it.
    ///
    /// # Errors
    /// The chain's head is not a descriptor of the queue.
    pub fn push(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        written: u32,
    ) -> Result<(), QueueError> {
        self.pushed = true;
        Ok(self.queue.add_used(memory, head, written)?)
    }

    /// Asks the driver to ring the doorbell for the next chain; true when there is one already. A driver that was asked before is not
    /// asked again: guest memory that is not written to stays shared.
    ///
    /// # Errors
    /// The ring cannot be accessed.
    pub fn enable_doorbell(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if !self.doorbell_is_enabled(memory)? {
            return Ok(self.queue.enable_notification(memory)?);
        }
        fence(Ordering::SeqCst);
        let index = self.queue.avail_idx(memory, Ordering::Relaxed)?;
        Ok(index.0 != self.queue.next_avail())
    }

    /// Whether the used ring says that the driver is to ring for the next chain (virtio 1.3, 2.7.10).
    fn doorbell_is_enabled(&self, memory: &GuestMemory) -> Result<bool, QueueError> {
        let (used, size) = (self.queue.used_ring(), u64::from(self.queue.size()));
        let load = |address| -> Result<u16, QueueError> {
            let value: u16 = memory
                .load(GuestAddress(address), Ordering::Relaxed)
                .map_err(virtio_queue::Error::GuestMemory)?;
            Ok(u16::from_le(value))
        };
        if self.queue.event_idx_enabled() {
            return Ok(load(used + 4 + 8 * size)? == self.queue.next_avail());
        }
        Ok(load(used)? & NO_NOTIFY == 0)
    }

    /// Tells the driver that it need not ring the doorbell.
    ///
    /// # Errors
    /// The ring cannot be accessed.
    pub fn disable_doorbell(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(memory)?)
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call. Call it once for each batch.
    ///
    /// # Errors
    /// The ring cannot be accessed.
    pub fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if !std::mem::take(&mut self.pushed) {
            return Ok(false);
        }
        // The queue knows of event indexes only, not of the older flag (virtio 1.3, 2.7.7).
        if self.queue.event_idx_enabled() {
            return Ok(self.queue.needs_notification(memory)?);
        }
        fence(Ordering::SeqCst);
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
    }

    /// The index at which both rings go on. Every chain that was taken must have been given back.
    #[must_use]
    pub fn position(&self) -> u16 {
        self.queue.next_used()
    }

    /// Rings the doorbell, so that the event loop comes back to this queue after it looked at its other events.
    pub fn come_back(&self) {
        // A full counter rings too.
        let _ = self.doorbell.write(1);
    }

    /// A second handle on the doorbell, to wake a thread that waits on it.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn doorbell(&self) -> io::Result<EventFd> {
        self.doorbell.try_clone()
    }
}
