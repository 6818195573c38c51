//! The one place that names the guest-memory crate's types, so that another version of it is a small change; and the making of guest memory.

pub use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemory as GuestMemoryTrait, GuestMemoryRegion,
    VolatileMemory, VolatileSlice, volatile_memory::PtrGuardMut,
};

/// The guest's memory; cloning it shares it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host's address space or its overcommit policy does not allow that much.
    #[error("the host does not give {bytes} bytes of memory for the guest; ask for less")]
    Map {
        /// What was asked for, in bytes.
        bytes: u64,
        /// Why.
        source: vm_memory::mmap::FromRangesError,
    },
}

/// Makes zeroed guest memory: one private mapping for each `(guest address, length in bytes)`, populated when it is first touched.
///
/// # Errors
/// [`MemoryError::Map`].
pub fn allocate(ranges: &[(GuestAddress, usize)]) -> Result<GuestMemory, MemoryError> {
    let memory = GuestMemory::from_ranges(ranges).map_err(|source| MemoryError::Map {
        bytes: ranges.iter().map(|&(_, length)| length as u64).sum(),
        source,
    })?;
    for (address, length) in host_ranges(&memory) {
        // Kept out of core dumps: it is the guest's. The flag also keeps the kernel from joining the mapping with a
        // neighbour, so that its resident memory can be told from the VMM's own. No harm where it fails.
        // SAFETY: the range is exactly one mapping that `memory` owns, and MADV_DONTDUMP changes no contents.
        unsafe { libc::madvise(address as *mut libc::c_void, length, libc::MADV_DONTDUMP) };
    }
    Ok(memory)
}

/// Where guest memory lies in this process: `(address, length in bytes)` of each mapping.
#[must_use]
pub fn host_ranges(memory: &GuestMemory) -> Vec<(usize, usize)> {
    memory.iter().map(|region| (region.as_ptr() as usize, region.size())).collect()
}
