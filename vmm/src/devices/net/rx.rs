//! Frames for the guest: the receive queue. It reads the port only while the guest has buffers; meanwhile frames wait there, and the host drops
//! those for which its queue has no place.

use std::sync::Arc;

use super::{
    frame::{HEADER, LARGEST, MRG_RXBUF, NUM_BUFFERS},
    port::{Link, Refusal},
    room::{Gathered, Room},
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
/// Bytes of buffers to have ready for a frame after a small one. After a large one it is the most that there can be: they come in rows.
const SMALL: usize = 2048;

/// The receive queue.
pub(super) struct Receiver {
    pub(super) queue: Virtqueue,
    counts: Arc<NetCounts>,
    /// The most chains that one frame may fill.
    most: usize,
    /// The port may have frames.
    ready: bool,
    /// Buffers lacked; the doorbell tells of the next.
    starved: bool,
    /// Bytes to have ready for the next frame.
    wanted: usize,
    /// Takes what did not fit into the buffers that were ready, which is rare; made for the first frame.
    spill: Vec<u8>,
    /// Bytes of a frame that is all in `spill` and waits for buffers.
    held: usize,
}

impl Receiver {
    pub(super) fn new(queue: Virtqueue, features: u64, counts: Arc<NetCounts>) -> Self {
        let most = if features & MRG_RXBUF != 0 { usize::MAX } else { 1 };
        let (spill, wanted) = (Vec::new(), SMALL);
        Self { queue, counts, most, ready: true, starved: false, wanted, spill, held: 0 }
    }

    /// The port may have frames again.
    pub(super) fn wake(&mut self) {
        self.ready = true;
    }

    /// Loses what waits.
    pub(super) fn forget(&mut self) {
        if self.held > 0 {
            self.lose();
        }
        self.spill = Vec::new();
    }

    /// Fills the guest's buffers with what the port has.
    pub(super) fn run(&mut self, memory: &GuestMemory, link: &Link) -> Result<Seen, QueueError> {
        if !self.ready && self.held == 0 {
            return Ok(Seen::There);
        }
        if self.spill.is_empty() {
            self.spill = vec![0; LARGEST];
        }
        if std::mem::take(&mut self.starved) {
            self.queue.disable_doorbell(memory)?;
        }
        let mut room = Room::default();
        let seen = self.fill(memory, link, &mut room)?;
        room.put_back(&mut self.queue);
        Ok(seen)
    }

    fn fill<'m>(
        &mut self,
        memory: &'m GuestMemory,
        link: &Link,
        room: &mut Room<'m>,
    ) -> Result<Seen, QueueError> {
        let mut chain = Chain::default();
        for _ in 0..BATCH {
            let wanted = if self.held > 0 { self.held } else { self.wanted };
            let gathered = room.gather(&mut self.queue, memory, &mut chain, (wanted, self.most))?;
            // Those in front that are malformed hold up no frame.
            self.counts.errors.add(room.give_back(&mut self.queue, memory, 0)?);
            if room.len() < self.held.max(1) {
                if gathered == Gathered::Full && room.len() > 0 {
                    self.lose();
                } else if gathered == Gathered::NoMore && !self.queue.enable_doorbell(memory)? {
                    self.starved = true;
                    return Ok(Seen::There);
                }
                continue;
            }
            if self.held > 0 {
                room.pieces.write(0, &self.spill[..self.held]);
                let length = std::mem::take(&mut self.held);
                self.deliver(memory, room, length)?;
                continue;
            }
            match read(link, room, &mut self.spill) {
                Ok(length) => self.take(memory, room, &mut chain, length)?,
                Err(Refusal::Gone) => return Ok(Seen::Gone),
                Err(refusal) => {
                    self.ready = false;
                    self.counts.errors.add(u64::from(refusal != Refusal::Later));
                    return Ok(Seen::There);
                }
            }
        }
        self.queue.come_back();
        Ok(Seen::There)
    }

    /// A frame of `length` bytes with its header has come, into `room` and from there into the spill.
    fn take<'m>(
        &mut self,
        memory: &'m GuestMemory,
        room: &mut Room<'m>,
        chain: &mut Chain<'m>,
        length: usize,
    ) -> Result<(), QueueError> {
        if !(HEADER..=LARGEST).contains(&length) {
            self.counts.errors.add(1);
            return Ok(());
        }
        self.wanted = if length > SMALL { LARGEST } else { SMALL };
        let within = room.len();
        if length > within {
            let rest = length - within;
            room.gather(&mut self.queue, memory, chain, (length, self.most))?;
            if room.len() < length {
                self.spill.copy_within(..rest, within);
                room.pieces.read(0, &mut self.spill[..within]);
                self.held = length;
                return Ok(());
            }
            room.pieces.write(within, &self.spill[..rest]);
        }
        self.deliver(memory, room, length)
    }

    /// Gives the guest the frame that is in `room`.
    fn deliver(
        &mut self,
        memory: &GuestMemory,
        room: &mut Room<'_>,
        length: usize,
    ) -> Result<(), QueueError> {
        // No more than the queue's size.
        let chains = u16::try_from(room.chains_of(length)).unwrap_or(u16::MAX);
        room.pieces.write(NUM_BUFFERS, &chains.to_le_bytes());
        self.counts.errors.add(room.give_back(&mut self.queue, memory, length)?);
        self.counts.received.add(1);
        self.counts.received_bytes.add((length - HEADER) as u64);
        Ok(())
    }

    fn lose(&mut self) {
        self.held = 0;
        self.counts.dropped.add(1);
    }
}

fn read(link: &Link, room: &Room<'_>, spill: &mut [u8]) -> Result<usize, Refusal> {
    let mut vectors = IoVectors::new(&mut room.pieces.range(0, usize::MAX));
    vectors.push(spill);
    link.read(&vectors)
}
