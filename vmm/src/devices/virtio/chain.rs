//! A descriptor chain, checked against guest memory once and then used as slices of it.
//! Devices take the bytes as one stream, because a driver may cut it into descriptors as it likes (virtio 1.3, 2.7.4.1).

use virtio_queue::DescriptorChain;
use vm_memory::VolatileSlice;

use crate::memory::{GuestMemory, GuestMemoryTrait};

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

    /// What is wrong with it. The slices hold what came before the fault.
    #[must_use]
    pub fn fault(&self) -> Option<ChainFault> {
        self.fault
    }

    /// Replaces the contents by the chain that `descriptors` walks; at most `limit` buffers.
    pub(super) fn fill(
        &mut self,
        memory: &'m GuestMemory,
        mut descriptors: DescriptorChain<&'m GuestMemory>,
        limit: u16,
    ) {
        self.head = descriptors.head_index();
        self.readable.clear();
        self.writable.clear();
        self.fault = self.collect(memory, &mut descriptors, limit).err();
    }

    fn collect(
        &mut self,
        memory: &'m GuestMemory,
        descriptors: &mut DescriptorChain<&'m GuestMemory>,
        limit: u16,
    ) -> Result<(), ChainFault> {
        // The iterator ends silently at a descriptor it cannot follow: the last one must be one that has no next.
        let mut complete = false;
        for (count, descriptor) in descriptors.enumerate() {
            if count >= usize::from(limit) {
                return Err(ChainFault::Descriptors);
            }
            complete = !descriptor.has_next();
            if !descriptor.is_write_only() && !self.writable.is_empty() {
                return Err(ChainFault::Order);
            }
            let side =
                if descriptor.is_write_only() { &mut self.writable } else { &mut self.readable };
            for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
                side.push(slice.map_err(|_| ChainFault::Memory)?);
            }
        }
        if complete { Ok(()) } else { Err(ChainFault::Descriptors) }
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

    fn push(&mut self, slice: VolatileSlice<'m>) {
        self.length += slice.len();
        self.slices.push(slice);
    }

    fn clear(&mut self) {
        self.slices.clear();
        self.length = 0;
    }
}
