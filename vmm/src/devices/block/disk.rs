//! The bytes of a disk: files one after the other. A request may begin in one and end in another.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    },
    path::PathBuf,
};

use rustix::{
    fs::{FallocateFlags, OFlags},
    io::{Errno, retry_on_intr},
};

use super::{
    BlockError, SECTOR,
    vectored::{Direction, transfer},
};
use crate::{api, devices::virtio::Slices};

/// Zeros to write where the host's file system cannot make them itself.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Open files that are one disk.
#[derive(Debug)]
pub(super) struct Disk {
    id: String,
    files: Vec<Extent>,
    /// Bytes, a multiple of the sector.
    length: u64,
    read_only: bool,
}

/// Where a file lies on the disk.
#[derive(Debug)]
struct Extent {
    file: File,
    start: u64,
    length: u64,
}

/// Part of a request.
enum Piece<'a> {
    /// Bytes of a file.
    File { file: &'a File, position: u64, length: u64 },
    /// Zeros after the last file, up to the end of its sector.
    Padding { length: u64 },
}

impl Piece<'_> {
    fn length(&self) -> u64 {
        match self {
            Piece::File { length, .. } | Piece::Padding { length } => *length,
        }
    }
}

impl Disk {
    pub(super) fn open(config: &api::Disk) -> Result<Self, BlockError> {
        let api::Disk { id, files: paths, read_only } = config;
        let how = if *read_only { "for reading" } else { "for reading and writing" };
        let files = paths.iter().map(|path| {
            // Without O_NONBLOCK a FIFO would hang here; it means nothing for files and block devices.
            let file = OpenOptions::new()
                .read(true)
                .write(!read_only)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)
                .map_err(|source| BlockError::Open {
                    id: id.clone(),
                    path: path.clone(),
                    how,
                    source,
                })?;
            Ok((file, path.clone()))
        });
        Self::of(id, *read_only, files.collect::<Result<_, _>>()?)
    }

    /// A disk of files that somebody else has opened, as they must be.
    pub(super) fn adopt(
        id: &str,
        read_only: bool,
        files: Vec<OwnedFd>,
    ) -> Result<Self, BlockError> {
        let wanted = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let named = files.into_iter().enumerate().map(|(number, file)| {
            let name = PathBuf::from(format!("descriptor {number}"));
            let flags = rustix::fs::fcntl_getfl(&file).map_err(|errno| BlockError::Open {
                id: id.to_owned(),
                path: name.clone(),
                how: "at all",
                source: errno.into(),
            })?;
            // A name only (`O_PATH`) is none of these, and with `O_APPEND` bytes do not go where they belong.
            let kind = flags & (OFlags::RWMODE | OFlags::PATH | OFlags::APPEND);
            if kind != wanted {
                return Err(BlockError::Mode {
                    id: id.to_owned(),
                    path: name,
                    wanted: if read_only { "reading only" } else { "reading and writing" },
                });
            }
            Ok((File::from(file), name))
        });
        Self::of(id, read_only, named.collect::<Result<_, _>>()?)
    }

    /// Without a medium.
    pub(super) fn empty(id: &str, read_only: bool) -> Self {
        Self { id: id.to_owned(), files: Vec::new(), length: 0, read_only }
    }

    /// Files and what they are called.
    fn of(id: &str, read_only: bool, opened: Vec<(File, PathBuf)>) -> Result<Self, BlockError> {
        let count = opened.len();
        let mut files = Vec::with_capacity(count);
        let too_large = || BlockError::TooLarge { id: id.to_owned() };
        let mut end = 0u64;
        for (index, (mut file, path)) in opened.into_iter().enumerate() {
            let error = |source| BlockError::Open {
                id: id.to_owned(),
                path: path.clone(),
                how: "and look at it",
                source,
            };
            let kind = file.metadata().map_err(error)?.file_type();
            if !kind.is_file() && !kind.is_block_device() {
                return Err(BlockError::NotAFile { id: id.to_owned(), path });
            }
            // A block device's metadata has no length.
            let length = file.seek(SeekFrom::End(0)).map_err(error)?;
            let may_be_cut = read_only && index + 1 == count;
            if !length.is_multiple_of(SECTOR) && !may_be_cut {
                return Err(BlockError::Unaligned { id: id.to_owned(), path, length });
            }
            if length > 0 {
                files.push(Extent { file, start: end, length });
            }
            end = end.checked_add(length).ok_or_else(too_large)?;
        }
        let length = end.checked_next_multiple_of(SECTOR).ok_or_else(too_large)?;
        Ok(Self { id: id.to_owned(), files, length, read_only })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn sectors(&self) -> u64 {
        self.length / SECTOR
    }

    /// The position of `sectors` sectors from `sector` on; `None` when they are not all on the disk.
    pub(super) fn locate(&self, sector: u64, sectors: u64) -> Option<u64> {
        let end = sector.checked_add(sectors)?;
        (end <= self.sectors()).then(|| sector * SECTOR)
    }

    /// Reads `length` bytes into `slices` from `offset` on.
    pub(super) fn read(
        &self,
        position: u64,
        slices: &Slices<'_>,
        offset: usize,
        length: usize,
    ) -> io::Result<()> {
        self.vectored(position, slices, offset, length, Direction::Read)
    }

    /// Writes `length` bytes of `slices` from `offset` on.
    pub(super) fn write(
        &self,
        position: u64,
        slices: &Slices<'_>,
        offset: usize,
        length: usize,
    ) -> io::Result<()> {
        self.vectored(position, slices, offset, length, Direction::Write)
    }

    /// Makes what was written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.files.iter().try_for_each(|extent| extent.file.sync_data())
    }

    /// Gives the storage of a range back where the host can; what is read there afterwards is not defined (virtio 1.3, 5.2.6.2).
    pub(super) fn discard(&self, position: u64, length: u64) -> io::Result<()> {
        self.allocate(position, length, FallocateFlags::PUNCH_HOLE, |_, _, _| Ok(()))
    }

    /// Makes a range read as zeros, and gives its storage back if `unmap`.
    pub(super) fn zero(&self, position: u64, length: u64, unmap: bool) -> io::Result<()> {
        let mode = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        self.allocate(position, length, mode, write_zeros)
    }

    fn vectored(
        &self,
        position: u64,
        slices: &Slices<'_>,
        mut offset: usize,
        length: usize,
        direction: Direction,
    ) -> io::Result<()> {
        for piece in self.pieces(position, length as u64) {
            // No longer than `length`.
            let length = usize::try_from(piece.length()).map_err(io::Error::other)?;
            let memory = slices.range(offset, length);
            match piece {
                Piece::File { file, position, .. } => transfer(file, position, memory, direction)?,
                Piece::Padding { .. } => memory.for_each(|slice| {
                    slice.copy_from(&ZEROS[..slice.len().min(ZEROS.len())]);
                }),
            }
            offset += length;
        }
        Ok(())
    }

    fn allocate(
        &self,
        position: u64,
        length: u64,
        mode: FallocateFlags,
        fallback: fn(&File, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        for piece in self.pieces(position, length) {
            // A disk that can be written has no padding.
            let Piece::File { file, position, length } = piece else { continue };
            let mode = mode | FallocateFlags::KEEP_SIZE;
            match retry_on_intr(|| rustix::fs::fallocate(file, mode, position, length)) {
                Err(Errno::OPNOTSUPP) => fallback(file, position, length)?,
                result => result?,
            }
        }
        Ok(())
    }

    /// Cuts a range of the disk into ranges of its files.
    fn pieces(&self, position: u64, length: u64) -> impl Iterator<Item = Piece<'_>> {
        let first = self.files.partition_point(|extent| extent.start + extent.length <= position);
        let (mut at, mut left) = (position, length);
        let files = self.files[first..].iter().map_while(move |extent| {
            if left == 0 {
                return None;
            }
            let skipped = at - extent.start;
            let length = left.min(extent.length - skipped);
            at += length;
            left -= length;
            Some(Piece::File { file: &extent.file, position: skipped, length })
        });
        let end = self.files.last().map_or(0, |extent| extent.start + extent.length);
        let padding = (position + length).saturating_sub(end.max(position));
        files.chain((padding > 0).then_some(Piece::Padding { length: padding }))
    }
}

fn write_zeros(file: &File, mut position: u64, mut left: u64) -> io::Result<()> {
    while left > 0 {
        let count = left.min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..usize::try_from(count).map_err(io::Error::other)?], position)?;
        position += count;
        left -= count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_written_where_the_file_system_does_not_make_them() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 200_000], 0).unwrap();
        write_zeros(&file, 1000, 150_000).unwrap();
        let mut bytes = vec![0; 200_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..1000].iter().chain(&bytes[151_000..]).all(|byte| *byte == 7));
        assert!(bytes[1000..151_000].iter().all(|byte| *byte == 0));
        assert_eq!(file.metadata().unwrap().len(), 200_000);
    }
}
