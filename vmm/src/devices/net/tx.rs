//! Frames from the guest: the transmit queue.

use std::sync::Arc;

use super::{
    frame::{self, HEADER},
    port::{Link, Refusal},
    running::Seen,
};
use crate::{
    devices::{
        NetCounts,
        virtio::{Chain, IoVectors, QueueError, Virtqueue},
    },
    memory::GuestMemory,
};

/// Frames after which the event loop looks at its other events.
const BATCH: usize = 64;

/// The transmit queue.
pub(super) struct Transmitter {
    pub(super) queue: Virtqueue,
    counts: Arc<NetCounts>,
    features: u64,
    mtu: u16,
    /// The port takes nothing; the next frame waits for it in the queue.
    full: bool,
}

impl Transmitter {
    pub(super) fn new(queue: Virtqueue, features: u64, mtu: u16, counts: Arc<NetCounts>) -> Self {
        Self { queue, counts, features, mtu, full: false }
    }

    /// The port may take frames again; whether one waits.
    pub(super) fn wake(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }

    /// Sends what the queue has. Without a link it goes nowhere, and the guest gets its buffers back.
    pub(super) fn run(
        &mut self,
        memory: &GuestMemory,
        link: Option<&Link>,
    ) -> Result<Seen, QueueError> {
        if self.full && link.is_some() {
            return Ok(Seen::There);
        }
        self.full = false;
        let mut chain = Chain::default();
        self.queue.disable_doorbell(memory)?;
        for _ in 0..BATCH {
            if !self.queue.pop(memory, &mut chain)? {
                if !self.queue.enable_doorbell(memory)? {
                    return Ok(Seen::There);
                }
                continue;
            }
            match (self.send(&chain, link), link) {
                (Ok(length), _) => {
                    self.counts.sent.add(1);
                    self.counts.sent_bytes.add(length as u64);
                }
                (Err(Refusal::Later), Some(link)) => {
                    self.queue.unpop(1);
                    self.full = true;
                    link.wait_for_room();
                    return Ok(Seen::There);
                }
                (Err(Refusal::Gone), Some(_)) => {
                    self.queue.unpop(1);
                    return Ok(Seen::Gone);
                }
                (Err(Refusal::Frame), _) => self.counts.errors.add(1),
                (Err(_), _) => self.counts.dropped.add(1),
            }
            self.queue.push(memory, chain.head(), 0)?;
        }
        self.queue.come_back();
        Ok(Seen::There)
    }

    /// Sends one frame; returns its bytes. What goes before it is a copy that was checked, and that the guest cannot change any more.
    fn send(&self, chain: &Chain<'_>, link: Option<&Link>) -> Result<usize, Refusal> {
        let mut header = [0; HEADER];
        if chain.fault().is_some() || !chain.readable.read(0, &mut header) {
            return Err(Refusal::Frame);
        }
        let length = chain.readable.len() - HEADER;
        let mut header =
            frame::to_host(header, length, self.features, self.mtu).ok_or(Refusal::Frame)?;
        let link = link.ok_or(Refusal::Gone)?;
        let mut vectors = IoVectors::empty();
        vectors.push(&mut header);
        vectors.extend(&mut chain.readable.range(HEADER, length));
        if vectors.len() == HEADER + length {
            link.write(&vectors)?;
            return Ok(length);
        }
        // More pieces than one system call takes.
        let mut copy = vec![0; length];
        chain.readable.read(HEADER, &mut copy);
        let mut vectors = IoVectors::empty();
        vectors.push(&mut header);
        vectors.push(&mut copy);
        link.write(&vectors)?;
        Ok(length)
    }
}
