//! The memory balloon (virtio 1.3, 5.5). It is here for free-page reporting: the guest names memory that it does not use,
//! and the host gets it back. The machine never asks for pages (`num_pages` is 0), yet answers a driver that gives some.
//!
//! `VIRTIO_BALLOON_F_PAGE_POISON` is not offered: a page of a clone comes back with what its template had there, so a guest that
//! wants free pages to hold a pattern must keep them, and its driver then reports none.

mod reclaim;

#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    BalloonCounts,
    virtio::{
        ActivateError, Chain, DeviceKind, DeviceState, Event, Interrupt, QueueError, Resources,
        RestoreError, Running, SaveError, Stopped, Version, VirtioDevice, Virtqueue, feature,
    },
};
use crate::memory::GuestMemory;

/// `VIRTIO_BALLOON_F_REPORTING`.
const F_REPORTING: u64 = 1 << 5;

/// The queues' indexes. The specification numbers reporting 4 (virtio 1.3, 5.5.2), Linux leaves no gap for the queues of
/// features that are not offered (6.1, `virtio_mmio.c`).
const INFLATE: usize = 0;
const REPORTING: usize = 2;
/// Of reporting: as many ranges as Linux reports at a time (`PAGE_REPORTING_CAPACITY`); with fewer its driver refuses the device.
const QUEUE_SIZES: [u16; 3] = [16, 16, 32];

/// The most bytes of guest memory that one look at the reporting queue gives back, some milliseconds of the event loop.
const REPORTED_AT_ONCE: usize = 32 << 20;
/// The most bytes of page numbers that one look at the inflate queue reads.
const NUMBERS_AT_ONCE: usize = 1 << 10;

/// What is saved of the device: nothing but that there is one. A chain that was begun is begun again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonState {
    /// Of this type.
    pub version: Version<1>,
}

/// A balloon.
#[derive(Debug, Default)]
pub struct Balloon {
    counts: Arc<BalloonCounts>,
}

impl Balloon {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What it counts; the handle stays good after the device was attached.
    #[must_use]
    pub fn counts(&self) -> Arc<BalloonCounts> {
        self.counts.clone()
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        feature::EVENT_IDX | F_REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    /// `num_pages`, which is 0, and `actual`, which a driver sets to that.
    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError> {
        let Resources { memory, queues, interrupt, .. } = resources;
        let queues = <[Virtqueue; 3]>::try_from(queues).map_err(|_| ActivateError::Queues(3))?;
        let counts = self.counts.clone();
        Ok(Box::new(RunningBalloon { memory, queues, interrupt, counts, begun: [0; 3] }))
    }

    fn state(&self) -> DeviceState {
        DeviceState::Balloon(BalloonState::default())
    }

    fn check(&self, _: &DeviceState) -> Result<bool, RestoreError> {
        Ok(false)
    }
}

/// The device while a driver runs it.
struct RunningBalloon {
    memory: GuestMemory,
    queues: [Virtqueue; 3],
    interrupt: Arc<Interrupt>,
    counts: Arc<BalloonCounts>,
    /// Bytes of each queue's next chain that are done already.
    begun: [usize; 3],
}

impl Running for RunningBalloon {
    fn process(&mut self, event: Event) -> Result<(), QueueError> {
        let Event::Doorbell(index) = event else { return Ok(()) };
        let Self { memory, queues, interrupt, counts, begun } = self;
        let (Some(queue), Some(begun)) = (queues.get_mut(index), begun.get_mut(index)) else {
            return Ok(());
        };
        let mut left = if index == REPORTING { REPORTED_AT_ONCE } else { NUMBERS_AT_ONCE };
        let mut chain = Chain::default();
        // At most one ring's length of chains, and of the last one no more than is left.
        for _ in 0..QUEUE_SIZES[index] {
            if !queue.pop(memory, &mut chain)? {
                if !queue.enable_doorbell(memory)? {
                    return tell(queue, memory, interrupt);
                }
                continue;
            }
            let (from, most) = (*begun, left);
            let length = match (chain.fault(), index) {
                (Some(_), _) => {
                    counts.errors.add(1);
                    0
                }
                (None, REPORTING) => {
                    reclaim::ranges(&chain.writable, from, most, counts);
                    chain.writable.len()
                }
                (None, INFLATE) => {
                    reclaim::numbers(&chain.readable, from, most, memory, counts);
                    chain.readable.len()
                }
                // The guest takes pages back: they are there when it touches them.
                (None, _) => 0,
            };
            if length.saturating_sub(from) > most {
                *begun = from + most;
                queue.unpop(1);
                break;
            }
            left -= length.saturating_sub(from);
            *begun = 0;
            queue.push(memory, chain.head(), 0)?;
        }
        queue.come_back();
        tell(queue, memory, interrupt)
    }

    fn stop(&mut self) -> Result<Stopped, SaveError> {
        let positions = self.queues.iter().map(Virtqueue::position).collect();
        Ok(Stopped { positions, device: None })
    }
}

/// Tells the driver of what was pushed.
fn tell(
    queue: &mut Virtqueue,
    memory: &GuestMemory,
    interrupt: &Interrupt,
) -> Result<(), QueueError> {
    if queue.wants_interrupt(memory)? {
        interrupt.used();
    }
    Ok(())
}
