//! A descriptor chain, checked against guest memory once and then used as slices of it.
//! Devices take the bytes as one stream, because a driver may cut it into descriptors as it likes (virtio 1.3, 2.7.4.1).

use virtio_queue::DescriptorChain;

use crate::memory::{GuestAddress, GuestMemory, GuestMemoryTrait, VolatileSlice};

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainFault {
    /// It loops, leaves the descriptor table, is longer than the queue, or its indirect table is not one.
    Descriptors,
    /// A device-readable buffer follows a device-writable one (virtio 1.3, 2.7.4.2).
    Order,
    /// A buffer is not in guest memory.
    Memory,
}

/// A chain; kept and filled again to save its allocations.
#[derive(Debug, Default)]
pub struct Chain<'m> {
    head: u16,
    fault: Option<ChainFault>,
    /// What the device may read.
    pub readable: Slices<'m>,
    /// What the device may write.
    pub writable: Slices<'m>,
}

impl<'m> Chain<'m> {
    /// The index by which the chain is given back.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What is wrong with it, the first fault if there are more. The last byte of `writable`, if there is one, is then still the
    /// last that the driver meant to be written; nothing else of the slices is of use.
    #[must_use]
    pub fn fault(&self) -> Option<ChainFault> {
        self.fault
    }

    /// Replaces the contents by the chain that `descriptors` walks; at most `limit` buffers.
    pub(super) fn fill(
        &mut self,
        memory: &'m GuestMemory,
        descriptors: DescriptorChain<&'m GuestMemory>,
        limit: u16,
    ) {
        self.head = descriptors.head_index();
        self.readable.clear();
        self.writable.clear();
        self.fault = None;
        // The iterator ends silently at a descriptor that it cannot follow: the last one must be one that has no next.
        let mut complete = false;
        for (count, descriptor) in descriptors.enumerate() {
            complete = !descriptor.has_next();
            if count >= usize::from(limit) {
                complete = false;
                break;
            }
            let (address, length) = (descriptor.addr(), descriptor.len() as usize);
            let is_memory = length == 0 || memory.check_range(address, length);
            if !is_memory {
                self.fault.get_or_insert(ChainFault::Memory);
            }
            if descriptor.is_write_only() {
                if is_memory {
                    self.writable.extend(memory, address, length);
                } else {
                    self.writable.clear();
                }
            } else {
                if !self.writable.is_empty() {
                    self.fault.get_or_insert(ChainFault::Order);
                }
                if is_memory {
                    self.readable.extend(memory, address, length);
                }
            }
        }
        if !complete {
            self.fault = Some(ChainFault::Descriptors);
            self.writable.clear();
        }
    }
}

/// Pieces of guest memory that are one stream of bytes.
#[derive(Debug, Default)]
pub struct Slices<'m> {
    slices: Vec<VolatileSlice<'m>>,
    length: usize,
}

impl<'m> Slices<'m> {
    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many pieces there are.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.slices.len()
    }

    /// Takes the first `count` pieces of `other` to its end too; returns their bytes.
    pub fn append(&mut self, other: &Slices<'m>, count: usize) -> usize {
        let before = self.length;
        for slice in other.slices.iter().take(count) {
            self.length += slice.len();
            self.slices.push(*slice);
        }
        self.length - before
    }

    /// Forgets the first `count` pieces, or all.
    pub fn remove_first(&mut self, count: usize) {
        let count = count.min(self.slices.len());
        self.length -= self.slices.drain(..count).map(|slice| slice.len()).sum::<usize>();
    }

    /// The pieces of `length` bytes from `offset` on, or of as many as there are.
    pub fn range(&self, offset: usize, length: usize) -> impl Iterator<Item = VolatileSlice<'m>> {
        let (mut skip, mut left) = (offset, length);
        self.slices.iter().filter_map(move |slice| {
            let start = skip.min(slice.len());
            let take = left.min(slice.len() - start);
            skip -= start;
            left -= take;
            if take == 0 { None } else { slice.subslice(start, take).ok() }
        })
    }

    /// Copies bytes out; false, and nothing of use in `data`, when there are not enough.
    pub fn read(&self, offset: usize, data: &mut [u8]) -> bool {
        let mut done = 0;
        for slice in self.range(offset, data.len()) {
            done += slice.copy_to(&mut data[done..]);
        }
        done == data.len()
    }

    /// Copies as many bytes in as there is room for; false when that is not all.
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        let mut done = 0;
        for slice in self.range(offset, data.len()) {
            slice.copy_from(&data[done..done + slice.len()]);
            done += slice.len();
        }
        done == data.len()
    }

    /// Takes a range that is guest memory.
    fn extend(&mut self, memory: &'m GuestMemory, address: GuestAddress, length: usize) {
        for slice in memory.get_slices(address, length).flatten() {
            self.length += slice.len();
            self.slices.push(slice);
        }
    }

    fn clear(&mut self) {
        self.slices.clear();
        self.length = 0;
    }
}
