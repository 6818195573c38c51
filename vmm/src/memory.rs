//! The one place that names the guest-memory crate's types, so that another version of it is a small change; and the making of guest memory.

use std::{fs::File, sync::Arc};

pub use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemory as GuestMemoryTrait, GuestMemoryRegion,
    VolatileMemory, VolatileSlice, volatile_memory::PtrGuardMut,
};
use vm_memory::{FileOffset, GuestRegionMmap, MmapRegion};

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
    /// The host's address space does not hold the file.
    #[error("the host does not let {bytes} bytes of a file be mapped as the guest's memory")]
    MapFile {
        /// What was to be mapped, in bytes.
        bytes: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A range that no address space holds.
    #[error("the guest's memory at {0:#x} goes beyond what addresses can name")]
    Beyond(u64),
}

/// Makes zeroed guest memory: one private mapping for each `(guest address, length in bytes)`, populated when it is first touched.
///
/// # Errors
/// [`MemoryError::Map`].
pub fn allocate(ranges: &[(GuestAddress, usize)]) -> Result<GuestMemory, MemoryError> {
    let memory = GuestMemory::from_ranges(ranges)
        .map_err(|source| MemoryError::Map { bytes: total(ranges), source })?;
    keep_apart(&memory);
    Ok(memory)
}

/// Maps `file` as guest memory: the ranges lie in it one after the other from its start. A page is the file's, and shared with all who map
/// it, until the guest writes to it. The file must have that length.
///
/// # Errors
/// [`MemoryError::MapFile`].
pub fn map_private(
    file: File,
    ranges: &[(GuestAddress, usize)],
) -> Result<GuestMemory, MemoryError> {
    let failed = |source| MemoryError::MapFile { bytes: total(ranges), source };
    let file = Arc::new(file);
    let mut place = 0;
    let mut regions = Vec::with_capacity(ranges.len());
    for &(start, length) in ranges {
        let mapping = MmapRegion::build(
            Some(FileOffset::from_arc(Arc::clone(&file), place)),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        )
        .map_err(|error| failed(Box::new(error)))?;
        let region = GuestRegionMmap::new(mapping, start).ok_or(MemoryError::Beyond(start.0))?;
        regions.push(region);
        place += length as u64;
    }
    let memory = GuestMemory::from_regions(regions).map_err(|error| failed(Box::new(error)))?;
    keep_apart(&memory);
    Ok(memory)
}

/// Keeps it out of core dumps: it is the guest's. The flag also keeps the kernel from joining the mapping with a
/// neighbour, so that its resident memory can be told from the VMM's own. No harm where it fails.
fn keep_apart(memory: &GuestMemory) {
    for (address, length) in host_ranges(memory) {
        // SAFETY: the range is exactly one mapping that `memory` owns, and MADV_DONTDUMP changes no contents.
        unsafe { libc::madvise(address as *mut libc::c_void, length, libc::MADV_DONTDUMP) };
    }
}

fn total(ranges: &[(GuestAddress, usize)]) -> u64 {
    ranges.iter().map(|&(_, length)| length as u64).sum()
}

/// Where guest memory lies in this process: `(address, length in bytes)` of each mapping.
#[must_use]
pub fn host_ranges(memory: &GuestMemory) -> Vec<(usize, usize)> {
    memory.iter().map(|region| (region.as_ptr() as usize, region.size())).collect()
}
