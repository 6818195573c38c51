//! What the disk's thread does: answers what is in the queue, and raises the interrupt once for each batch.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{disk::Disk, request};
use crate::devices::{
    BlockCounts,
    virtio::{Chain, Lead, QueueError, Rings, Work},
};

/// Requests after which the driver hears of them even if there are more.
const BATCH: usize = 16;
/// Time after which it does: with files that are in the page cache a batch takes less, with a slow disk no request waits for the others.
const BATCH_TIME: Duration = Duration::from_micros(200);

/// The disk, as its thread has it.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) id: String,
    /// What is read and written. The thread holds the lock for one request.
    pub(super) disk: Mutex<Disk>,
    pub(super) counts: Arc<BlockCounts>,
}

impl Work for Service {
    type Desk = ();

    const THREADS: usize = 1;

    fn name(&self) -> String {
        format!("disk {}", self.id)
    }

    fn desk(&self) -> io::Result<()> {
        Ok(())
    }

    fn serve(&self, rings: &Rings, (): &mut (), lead: &mut Lead<'_>) -> Result<(), QueueError> {
        let mut chain = Chain::default();
        let mut queues = rings.queues();
        let Some(queue) = queues.first_mut() else { return Ok(()) };
        while !lead.is_over() {
            queue.disable_doorbell(&rings.memory)?;
            let began = Instant::now();
            let mut more = true;
            for _ in 0..BATCH {
                more = queue.pop(&rings.memory, &mut chain)?;
                if !more {
                    break;
                }
                let medium = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
                let written = request::answer(&chain, &medium, &self.counts);
                drop(medium);
                queue.push(&rings.memory, chain.head(), written)?;
                if began.elapsed() >= BATCH_TIME || lead.is_over() {
                    break;
                }
            }
            if queue.wants_interrupt(&rings.memory)? {
                rings.interrupt.used();
            }
            if !more && !queue.enable_doorbell(&rings.memory)? {
                break;
            }
        }
        Ok(())
    }
}
