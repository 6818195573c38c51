//! The memory file: guest memory's ranges one after the other, with holes where it is zero, and a tail that says that it is whole
//! and which state belongs to it.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

use serde::{Deserialize, Serialize};

use crate::memory::{
    Address, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestMemoryTrait, MemoryError,
    map_private,
};

const PAGE: usize = 4096;
const MAGIC: &[u8; 8] = b"BLKHDMEM";
const TAIL: usize = 24;
/// How much is looked at in one go.
const CHUNK: usize = 1 << 20;
/// Bits 63 and 62 of a page's entry (Linux Documentation/admin-guide/mm/pagemap.rst): it is in memory, it is in swap.
const TOUCHED: u64 = 0b11 << 62;

/// Which memory belongs to a state: its ranges, and a number that only these two files have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryShape {
    /// Random.
    id: [u8; 16],
    /// Guest address and length in bytes, in the file's order.
    ranges: Vec<(u64, u64)>,
}

/// Why a file is not the memory of a state.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// Cut off, or another machine's.
    #[error("it has {found} bytes where {wanted} belong; save the machine again")]
    Length {
        /// The bytes that there should be.
        wanted: u64,
        /// Those that there are.
        found: u64,
    },
    /// The memory of another machine, or not written to its end.
    #[error("it is not the memory that was saved with this state")]
    Foreign,
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It could not be mapped.
    #[error(transparent)]
    Map(#[from] MemoryError),
}

impl MemoryShape {
    /// Of `memory`, with a number of its own.
    #[must_use]
    pub fn new(memory: &GuestMemory, id: [u8; 16]) -> Self {
        let ranges = memory.iter().map(|region| (region.start_addr().raw_value(), region.len()));
        Self { id, ranges: ranges.collect() }
    }

    /// The ranges as a machine of `ranges` has them?
    #[must_use]
    pub fn is(&self, ranges: &[(GuestAddress, usize)]) -> bool {
        let theirs = ranges.iter().map(|(start, length)| (start.raw_value(), *length as u64));
        self.ranges.iter().copied().eq(theirs)
    }

    /// Of all ranges, in bytes.
    fn length(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, (_, length)| sum.saturating_add(*length))
    }

    fn tail(&self) -> [u8; TAIL] {
        let mut tail = [0; TAIL];
        let (magic, id) = tail.split_at_mut(MAGIC.len());
        magic.copy_from_slice(MAGIC);
        id.copy_from_slice(&self.id);
        tail
    }

    /// Maps `file` as the memory of a machine with `ranges`: what it writes is its own, what it only reads is the file's.
    ///
    /// # Errors
    /// [`ShapeError`].
    pub fn map(
        &self,
        file: File,
        ranges: &[(GuestAddress, usize)],
    ) -> Result<GuestMemory, ShapeError> {
        let found = file.metadata().map_err(ShapeError::Read)?.len();
        let length = self.length();
        let wanted = length.saturating_add(TAIL as u64);
        if found != wanted {
            return Err(ShapeError::Length { wanted, found });
        }
        let mut tail = [0; TAIL];
        file.read_exact_at(&mut tail, length).map_err(ShapeError::Read)?;
        if tail != self.tail() || !self.is(ranges) {
            return Err(ShapeError::Foreign);
        }
        Ok(map_private(file, ranges)?)
    }

    /// Writes `memory`, which nobody changes meanwhile, and its tail into the empty `file`, and waits until they are on the disk. `pagemap` is the
    /// process's own.
    ///
    /// # Errors
    /// Those of the files.
    pub fn write(&self, memory: &GuestMemory, pagemap: &File, file: &mut File) -> io::Result<()> {
        file.set_len(self.length())?;
        let mut place = 0;
        let mut chunk = vec![0; CHUNK];
        let mut pages = vec![0; CHUNK / PAGE * 8];
        for region in memory.iter() {
            let host = region.as_ptr() as u64;
            for start in (0..region.len()).step_by(CHUNK) {
                let length = usize::try_from(region.len() - start).unwrap_or(CHUNK).min(CHUNK);
                let (chunk, pages) = (&mut chunk[..length], &mut pages[..length / PAGE * 8]);
                pagemap.read_exact_at(pages, (host + start) / PAGE as u64 * 8)?;
                if !touched(pages).any(|it| it) {
                    continue;
                }
                chunk.fill(0);
                let mut from = region.start_addr().unchecked_add(start);
                for (page, touched) in chunk.chunks_mut(PAGE).zip(touched(pages)) {
                    // Reading a page that was never touched would make one.
                    if touched {
                        memory.read_slice(page, from).map_err(io::Error::other)?;
                    }
                    from = from.unchecked_add(PAGE as u64);
                }
                for (at, run) in runs(chunk) {
                    file.write_all_at(run, place + start + at as u64)?;
                }
            }
            place += region.len();
        }
        file.write_all_at(&self.tail(), place)?;
        file.flush()?;
        file.sync_all()
    }
}

/// For each page of a pagemap whether there is anything in it.
fn touched(pages: &[u8]) -> impl Iterator<Item = bool> {
    pages.chunks_exact(8).map(|entry| entry.try_into().map_or(0, u64::from_ne_bytes) & TOUCHED != 0)
}

/// The runs of pages that are not zero: offset and bytes.
fn runs(chunk: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    const ZERO: [u8; PAGE] = [0; PAGE];
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (number, page) in chunk.chunks(PAGE).enumerate() {
        if ZERO.starts_with(page) {
            continue;
        }
        let (start, end) = (number * PAGE, number * PAGE + page.len());
        match runs.last_mut() {
            Some((_, last)) if *last == start => *last = end,
            _ => runs.push((start, end)),
        }
    }
    runs.into_iter().filter_map(|(start, end)| Some((start, chunk.get(start..end)?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::memory::allocate;

    const MIB: usize = 1 << 20;

    fn saved(ranges: &[(GuestAddress, usize)], writes: &[(u64, u8)]) -> (MemoryShape, File) {
        let memory = allocate(ranges).unwrap();
        for (address, value) in writes {
            memory.write_obj(*value, GuestAddress(*address)).unwrap();
        }
        let shape = MemoryShape::new(&memory, *b"0123456789abcdef");
        let mut file = tempfile::tempfile().unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        shape.write(&memory, &pagemap, &mut file).unwrap();
        (shape, file)
    }

    #[test]
    fn memory_comes_back_from_its_file_and_zeros_take_no_room() {
        let ranges = [(GuestAddress(0), 8 * MIB), (GuestAddress(1 << 32), 4 * MIB)];
        let last = (1 << 32) + 4 * MIB as u64 - 1;
        let writes = [(0x1234, 1), (5 << 20, 2), ((5 << 20) + 4096, 3), (7 << 20, 0), (last, 4)];
        let (shape, file) = saved(&ranges, &writes);
        // Four pages and the tail.
        assert!(file.metadata().unwrap().blocks() * 512 <= 64 << 10);
        let (first, second) = (file.try_clone().unwrap(), file);
        let first = shape.map(first, &ranges).unwrap();
        let second = shape.map(second, &ranges).unwrap();
        for (address, value) in writes {
            assert_eq!(first.read_obj::<u8>(GuestAddress(address)).unwrap(), value);
        }
        assert_eq!(first.read_obj::<u64>(GuestAddress(6 << 20)).unwrap(), 0);
        first.write_obj(9u8, GuestAddress(0x1234)).unwrap();
        assert_eq!(second.read_obj::<u8>(GuestAddress(0x1234)).unwrap(), 1, "its own");
    }

    #[test]
    fn pages_that_were_never_touched_stay_so() {
        let ranges = [(GuestAddress(0), 64 * MIB)];
        let memory = allocate(&ranges).unwrap();
        memory.write_obj(1u8, GuestAddress(33 << 20)).unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let shape = MemoryShape::new(&memory, [0; 16]);
        shape.write(&memory, &pagemap, &mut file).unwrap();
        let mut pages = vec![0; 64 * MIB / PAGE * 8];
        let host = memory.iter().next().unwrap().as_ptr() as u64;
        pagemap.read_exact_at(&mut pages, host / PAGE as u64 * 8).unwrap();
        // Or as many as a huge page has.
        assert!(touched(&pages).filter(|it| *it).count() <= 512);
    }

    #[test]
    fn other_files_are_refused() {
        let ranges = [(GuestAddress(0), 4 * MIB)];
        let (shape, file) = saved(&ranges, &[(0, 1)]);
        let other = [(GuestAddress(0), 2 * MIB), (GuestAddress(1 << 32), 2 * MIB)];
        let error = shape.map(file.try_clone().unwrap(), &other).unwrap_err();
        assert!(matches!(error, ShapeError::Foreign), "{error}");
        let foreign = MemoryShape { id: [7; 16], ..shape.clone() };
        let error = foreign.map(file.try_clone().unwrap(), &ranges).unwrap_err();
        assert!(matches!(error, ShapeError::Foreign), "{error}");
        file.set_len(4096).unwrap();
        let error = shape.map(file.try_clone().unwrap(), &ranges).unwrap_err();
        assert!(error.to_string().contains("4096 bytes where 4194328"), "{error}");
        file.set_len(4 * MIB as u64 + TAIL as u64).unwrap();
        let error = shape.map(file, &ranges).unwrap_err();
        assert!(matches!(error, ShapeError::Foreign), "not written to its end: {error}");
        let huge = MemoryShape { id: [0; 16], ranges: vec![(0, u64::MAX), (0, u64::MAX)] };
        assert!(huge.map(tempfile::tempfile().unwrap(), &ranges).is_err());
    }
}
