//! The guest's buffers for frames that are to come: the chains of the receive queue that were taken and not given back, as one stream of bytes.

use std::collections::VecDeque;

use crate::{
    devices::virtio::{Chain, QueueError, Slices, Virtqueue},
    memory::GuestMemory,
};

/// The most pieces of memory in all of it: one less than an array of vectors holds, which has one for what does not fit.
const MAX_PIECES: usize = 63;

/// A chain.
#[derive(Debug)]
struct Entry {
    head: u16,
    /// Bytes that can be written; none of one that is malformed.
    length: usize,
    pieces: usize,
}

/// Why no more chains were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    /// There are as many bytes as were wanted.
    Enough,
    /// The driver has made no more available.
    NoMore,
    /// No more can be taken at a time.
    Full,
}

/// The buffers.
#[derive(Debug, Default)]
pub(super) struct Room<'m> {
    entries: VecDeque<Entry>,
    /// All of them, as one stream.
    pub(super) pieces: Slices<'m>,
}

impl<'m> Room<'m> {
    /// Bytes in all.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Takes chains until they have `wanted` bytes or are `most`.
    pub(super) fn gather(
        &mut self,
        queue: &mut Virtqueue,
        memory: &'m GuestMemory,
        chain: &mut Chain<'m>,
        (wanted, most): (usize, usize),
    ) -> Result<Gathered, QueueError> {
        while self.len() < wanted {
            if self.entries.len() >= most {
                return Ok(Gathered::Full);
            }
            if !queue.pop(memory, chain)? {
                return Ok(Gathered::NoMore);
            }
            let sound = chain.fault().is_none();
            let pieces = if sound { chain.writable.pieces() } else { 0 };
            let room = MAX_PIECES - self.pieces.pieces();
            if pieces > room && room < MAX_PIECES {
                queue.unpop(1);
                return Ok(Gathered::Full);
            }
            // A chain of more pieces than there can be is shorter for it.
            let pieces = pieces.min(room);
            let length = self.pieces.append(&chain.writable, pieces);
            self.entries.push_back(Entry { head: chain.head(), length, pieces });
        }
        Ok(Gathered::Enough)
    }

    /// The chains that `length` bytes fill.
    pub(super) fn chains_of(&self, length: usize) -> usize {
        let mut end = 0;
        let before = self.entries.iter().take_while(|entry| {
            let begins = end < length;
            end += entry.length;
            begins
        });
        before.count()
    }

    /// Gives the first chains back with `length` bytes in them, and at least one; then those behind them that are malformed. Returns how many were.
    pub(super) fn give_back(
        &mut self,
        queue: &mut Virtqueue,
        memory: &GuestMemory,
        length: usize,
    ) -> Result<u64, QueueError> {
        let mut malformed = 0;
        let mut left = length;
        while let Some(entry) = self.entries.front()
            && (left > 0 || entry.length == 0)
        {
            let written = left.min(entry.length);
            malformed += u64::from(entry.length == 0);
            queue.push(memory, entry.head, u32::try_from(written).unwrap_or(u32::MAX))?;
            left -= written;
            self.pieces.remove_first(entry.pieces);
            self.entries.pop_front();
        }
        Ok(malformed)
    }

    /// Puts all chains back to where they were.
    pub(super) fn put_back(&mut self, queue: &mut Virtqueue) {
        // No more than the queue's size.
        queue.unpop(u16::try_from(self.entries.len()).unwrap_or(u16::MAX));
        self.entries.clear();
        self.pieces.remove_first(usize::MAX);
    }
}
