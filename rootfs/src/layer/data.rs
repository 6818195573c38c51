//! Writes a layer's data blob: the content of every file, in the order of the tar stream, each on a block boundary, one sequential
//! write. Runs of zeros stay holes of the blob; big files whose chunks are all zero need no blocks at all.

use std::{
    fs::File,
    io,
    num::NonZero,
    os::{fd::AsFd, unix::fs::FileExt},
};

use rustix::fs::{Advice, fadvise};

use super::{
    error::EntryError,
    node::{Content, HOLE, Map},
};
use crate::{BLOCK, limits, tar::Sink};

/// Zeros are looked for in pieces of this many bytes, aligned in the file.
const GRAIN: u64 = ZEROS.len() as u64;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Files up to this size are stored whole; bigger ones in chunks of at least this size.
const CHUNK: u64 = 1 << 20;
/// Chunks of one file, at most.
const MAX_CHUNKS: u64 = 4096;
const BUFFER: usize = 1 << 20;
/// How often the free space is looked at, in bytes written.
const SPACE_CHECK: u64 = 64 << 20;

/// The blob being written.
pub(crate) struct DataWriter {
    file: File,
    /// Bytes waiting to be written at `flushed`.
    buffer: Vec<u8>,
    flushed: u64,
    /// First block that no file has yet.
    next_block: u64,
    unchecked: u64,
}

impl DataWriter {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            buffer: Vec::with_capacity(BUFFER),
            flushed: 0,
            next_block: 0,
            unchecked: SPACE_CHECK,
        }
    }

    /// Starts a file of `size` bytes. Its content follows through [`Sink`]; [`FileWriter::finish`] says where it went.
    pub(crate) fn file(&mut self, size: u64) -> Result<FileWriter<'_>, EntryError> {
        if size > limits::FILE {
            return Err(EntryError::FileTooLarge(size));
        }
        let mut chunk = CHUNK;
        while size.div_ceil(chunk) > MAX_CHUNKS {
            chunk *= 2;
        }
        let mut writer = FileWriter {
            blob: self,
            size,
            position: 0,
            chunk,
            chunks: Vec::new(),
            grain: Vec::new(),
        };
        if size > 0 && size <= CHUNK {
            writer.allocate(0)?;
        }
        Ok(writer)
    }

    /// Writes what is buffered and makes the blob durable. Returns its length in blocks.
    pub(crate) fn finish(mut self) -> io::Result<u32> {
        self.flush()?;
        self.file.set_len(self.next_block * BLOCK)?;
        self.file.sync_all()?;
        u32::try_from(self.next_block).map_err(io::Error::other)
    }

    fn write_at(&mut self, position: u64, bytes: &[u8]) -> Result<(), EntryError> {
        if position != self.flushed + self.buffer.len() as u64 {
            // The gap is padding or a hole: zeros either way. A short one is written, so that writes stay big.
            let gap = position.checked_sub(self.flushed + self.buffer.len() as u64);
            match gap.and_then(|gap| usize::try_from(gap).ok()).filter(|gap| *gap < ZEROS.len()) {
                Some(gap) => self.buffer.resize(self.buffer.len() + gap, 0),
                None => {
                    self.flush().map_err(EntryError::Write)?;
                    self.flushed = position;
                }
            }
        }
        self.unchecked += bytes.len() as u64;
        if self.unchecked >= SPACE_CHECK {
            self.check_space()?;
        }
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush().map_err(EntryError::Write)?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.flushed)?;
        if let Some(length) = NonZero::new(self.buffer.len() as u64) {
            // Has Linux start to write the pages back at once (mm/fadvise.c), so that the disk works while the next ones are made, and
            // `finish` has little left to wait for. They are dirty, so they stay in the cache. Only advice: a failure does not matter.
            let _ = fadvise(&self.file, self.flushed, Some(length), Advice::DontNeed);
        }
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn check_space(&mut self) -> Result<(), EntryError> {
        self.unchecked = 0;
        let free =
            rustix::fs::fstatvfs(self.file.as_fd()).map_err(|e| EntryError::Write(e.into()))?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        if free < limits::RESERVED_SPACE + SPACE_CHECK {
            return Err(EntryError::NoSpace { free });
        }
        Ok(())
    }
}

/// One file's content on its way into the blob.
pub(crate) struct FileWriter<'a> {
    blob: &'a mut DataWriter,
    size: u64,
    position: u64,
    chunk: u64,
    /// First block of each chunk seen so far.
    chunks: Vec<u32>,
    /// What is known of the current grain, if it did not come in one piece.
    grain: Vec<u8>,
}

impl FileWriter<'_> {
    /// Where the content is, once all of it was passed.
    pub(crate) fn finish(mut self) -> Content {
        let count = usize::try_from(self.size.div_ceil(self.chunk)).unwrap_or(0);
        self.chunks.resize(count, HOLE);
        let blocks_per_chunk = self.chunk / BLOCK;
        let first = self.chunks.first().copied().unwrap_or(0);
        let flat = first != HOLE
            && (0_u64..)
                .zip(&self.chunks)
                .all(|(i, block)| u64::from(*block) == u64::from(first) + i * blocks_per_chunk);
        let map = if flat {
            Map::Flat(first)
        } else {
            // A power of two of blocks, so its logarithm is exact and below 64.
            let bits = u8::try_from(blocks_per_chunk.ilog2()).unwrap_or(u8::MAX);
            Map::Chunks { bits, blocks: self.chunks }
        };
        Content { size: self.size, map }
    }

    fn allocate(&mut self, chunk: usize) -> Result<(), EntryError> {
        let bytes = (self.size - chunk as u64 * self.chunk).min(self.chunk);
        let first = self.blob.next_block;
        let next = first + bytes.div_ceil(BLOCK);
        let first = u32::try_from(first)
            .ok()
            .filter(|_| next < u64::from(HOLE))
            .ok_or(EntryError::BlobFull)?;
        self.chunks.resize(chunk, HOLE);
        self.chunks.push(first);
        self.blob.next_block = next;
        Ok(())
    }

    /// Stores `bytes`, which lie in one grain, at `self.position`, unless they are zeros.
    fn store(&mut self, bytes: &[u8]) -> Result<(), EntryError> {
        if !is_zero(bytes) {
            let chunk =
                usize::try_from(self.position / self.chunk).map_err(|_| EntryError::BlobFull)?;
            if self.chunks.get(chunk).is_none_or(|block| *block == HOLE) {
                self.allocate(chunk)?;
            }
            let first = self.chunks.get(chunk).copied().unwrap_or(HOLE);
            self.blob.write_at(u64::from(first) * BLOCK + self.position % self.chunk, bytes)?;
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn store_grain(&mut self) -> Result<(), EntryError> {
        let mut grain = std::mem::take(&mut self.grain);
        self.store(&grain)?;
        grain.clear();
        self.grain = grain;
        Ok(())
    }

    fn end(&self) -> u64 {
        self.position + self.grain.len() as u64
    }
}

impl Sink for FileWriter<'_> {
    type Error = EntryError;

    fn data(&mut self, mut bytes: &[u8]) -> Result<(), EntryError> {
        while !bytes.is_empty() {
            let end = self.end();
            let room = usize::try_from((GRAIN - end % GRAIN).min(self.size - end)).unwrap_or(0);
            if room == 0 {
                return Err(EntryError::Overrun(self.size));
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if self.grain.is_empty() && now.len() == room {
                self.store(now)?;
            } else {
                self.grain.extend_from_slice(now);
                if now.len() == room {
                    self.store_grain()?;
                }
            }
            bytes = later;
        }
        Ok(())
    }

    fn hole_until(&mut self, offset: u64) -> Result<(), EntryError> {
        let zeros =
            |count: u64| ZEROS.get(..usize::try_from(count).unwrap_or(0)).unwrap_or_default();
        if !self.grain.is_empty() {
            let end = self.end();
            self.data(zeros(offset.min(end.next_multiple_of(GRAIN)).saturating_sub(end)))?;
        }
        if self.grain.is_empty() && self.position < offset {
            // Whole grains are passed over; zeros begin the one that `offset` is in.
            self.position = if offset == self.size { offset } else { offset / GRAIN * GRAIN };
            self.data(zeros(offset - self.position))?;
        }
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
