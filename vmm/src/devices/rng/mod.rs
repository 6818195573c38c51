//! The entropy device (virtio 1.3, 5.4): the host's getrandom(2), straight into the guest's buffers.

#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::virtio::{
    ActivateError, Chain, DeviceKind, DeviceState, Event, Interrupt, QueueError, Resources,
    RestoreError, Running, SaveError, Stopped, Version, VirtioDevice, Virtqueue, feature,
};
use crate::memory::{GuestMemory, VolatileSlice};

/// At most this many bytes for one request; the driver asks again (virtio 1.3, 5.4.6.2: fewer than asked is allowed).
const MAX_REQUEST: usize = 4096;

/// What is saved of the device: nothing but that there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {
    /// Of this type.
    pub version: Version<1>,
}

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng;

impl Rng {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        feature::EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[8]
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError> {
        let Resources { memory, queues, interrupt, .. } = resources;
        let [queue] = <[Virtqueue; 1]>::try_from(queues).map_err(|_| ActivateError::Queues(1))?;
        Ok(Box::new(RunningRng { memory, queue, interrupt }))
    }

    fn state(&self) -> DeviceState {
        DeviceState::Rng(RngState::default())
    }

    fn check(&self, _: &DeviceState) -> Result<bool, RestoreError> {
        Ok(false)
    }
}

/// The device while a driver runs it.
struct RunningRng {
    memory: GuestMemory,
    queue: Virtqueue,
    interrupt: Arc<Interrupt>,
}

impl Running for RunningRng {
    fn process(&mut self, _: Event) -> Result<(), QueueError> {
        let Self { memory, queue, interrupt } = self;
        let mut chain = Chain::default();
        loop {
            while queue.pop(memory, &mut chain)? {
                let written = if chain.fault().is_some() { 0 } else { fill(&chain) };
                queue.push(memory, chain.head(), written)?;
            }
            if !queue.enable_doorbell(memory)? {
                break;
            }
        }
        if queue.wants_interrupt(memory)? {
            interrupt.used();
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<Stopped, SaveError> {
        Ok(Stopped { positions: vec![self.queue.position()], device: None })
    }
}

/// Fills the chain's buffers; returns the number of bytes.
fn fill(chain: &Chain<'_>) -> u32 {
    let mut written = 0;
    for slice in chain.writable.range(0, MAX_REQUEST) {
        let count = random(&slice);
        written += count;
        if (count as usize) < slice.len() {
            break;
        }
    }
    written
}

/// Fills the front of `slice`; returns the number of bytes.
fn random(slice: &VolatileSlice<'_>) -> u32 {
    let guard = slice.ptr_guard_mut();
    // SAFETY: the pointer and length are those of a mapped piece of guest memory, which outlives the call; the kernel
    // writes to it as the guest may, and no Rust reference to it exists. GRND_NONBLOCK: the event loop must not wait.
    let count = unsafe { libc::getrandom(guard.as_ptr().cast(), guard.len(), libc::GRND_NONBLOCK) };
    u32::try_from(count).unwrap_or(0)
}
