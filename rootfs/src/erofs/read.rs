//! A small reader of the volumes that this crate writes: finds a file by its path inside the image, without mounting anything.
//! Used to look up users and groups on the host. The store may be damaged, so nothing read is trusted.

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf};

use super::disk::{BLOCK, DIRENT, MAGIC, SLOT, SUPER_OFFSET};
use crate::{layer::HOLE, limits};

/// Why a file could not be read from an image.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// One of the image's disk files cannot be read.
    #[error("{} cannot be read", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// The volume is damaged.
    #[error("the image's volume is damaged: {0}")]
    Damaged(&'static str),
    /// The path leads through too many symbolic links.
    #[error("\"{0}\" leads through too many symbolic links")]
    Symlinks(String),
    /// Not a regular file.
    #[error("\"{0}\" is not a regular file")]
    NotAFile(String),
    /// Bigger than the caller wants.
    #[error("\"{path}\" has {size} bytes; at most {limit} are read")]
    TooLarge {
        /// The path.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

use ReadError::Damaged;

/// An image's disk.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Each file, where it starts on the disk and where it ends.
    parts: Vec<(File, u64, u64)>,
    root: u64,
}

struct Inode {
    mode: u16,
    layout: u16,
    size: u64,
    union: u32,
    /// Where the attributes end.
    behind: u64,
}

const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;
const CHUNKS: u16 = 4;
const TYPE: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
const SYMLINK: u16 = 0o120_000;

impl Volume {
    /// Opens the disk that is the concatenation of `files`.
    pub(crate) fn open(files: &[PathBuf]) -> Result<Self, ReadError> {
        let mut parts = Vec::with_capacity(files.len());
        let mut start = 0;
        for path in files {
            let open = || {
                let file = File::open(path)?;
                let length = file.metadata()?.len();
                Ok((file, length))
            };
            let (file, length) = open().map_err(|e| ReadError::Open(path.clone(), e))?;
            parts.push((file, start, start + length));
            start += length;
        }
        let mut volume = Self { parts, root: 0 };
        let head: [u8; 16] = volume.array(SUPER_OFFSET as u64)?;
        if head.first_chunk() != Some(&MAGIC.to_le_bytes()) {
            return Err(Damaged("no superblock"));
        }
        volume.root = u64::from(u16::from_le_bytes([head[14], head[15]]));
        Ok(volume)
    }

    /// The content of the regular file `path`, or None if there is no such file. Symbolic links are followed inside the image only.
    pub(crate) fn read_file(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
        let shown = || crate::path::display(path);
        let mut todo: Vec<Vec<u8>> = path.rsplit(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        let mut found = self.root;
        let (mut steps, mut followed) = (0, 0);
        while let Some(name) = todo.pop() {
            steps += 1;
            if steps > limits::PATH {
                return Err(ReadError::Symlinks(shown()));
            }
            if name.is_empty() || name == b"." {
                continue;
            }
            let directory = found;
            let inode = self.inode(directory)?;
            if inode.mode & TYPE != DIRECTORY {
                return Ok(None);
            }
            let Some(child) = self.lookup(&inode, &name)? else {
                return Ok(None);
            };
            let inode = self.inode(child)?;
            if inode.mode & TYPE != SYMLINK {
                found = child;
                continue;
            }
            followed += 1;
            if followed > limits::SYMLINKS {
                return Err(ReadError::Symlinks(shown()));
            }
            let target = self.content(&inode, 0, inode.size.min(limits::PATH as u64))?;
            found = if target.starts_with(b"/") { self.root } else { directory };
            todo.extend(target.rsplit(|b| *b == b'/').map(<[u8]>::to_vec));
        }
        let inode = self.inode(found)?;
        if inode.mode & TYPE != REGULAR {
            return Err(ReadError::NotAFile(shown()));
        }
        if inode.size > limit {
            return Err(ReadError::TooLarge { path: shown(), size: inode.size, limit });
        }
        self.content(&inode, 0, inode.size).map(Some)
    }

    fn inode(&self, number: u64) -> Result<Inode, ReadError> {
        let at = number.checked_mul(SLOT).ok_or(Damaged("inode number"))?;
        let head: [u8; 32] = self.array(at)?;
        let u16_at = |i: usize| {
            head.get(i..i + 2).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
        };
        let u32_at = |i: usize| {
            head.get(i..i + 4).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
        };
        let format = u16_at(0);
        let extended = format & 1 != 0;
        let size = u64::from(u32_at(8)) | if extended { u64::from(u32_at(12)) << 32 } else { 0 };
        let xattrs = match u64::from(u16_at(2)) {
            0 => 0,
            count => 12 + 4 * (count - 1),
        };
        let behind = at + if extended { 64 } else { 32 } + xattrs;
        Ok(Inode { mode: u16_at(4), layout: format >> 1, size, union: u32_at(16), behind })
    }

    /// `length` bytes of an inode's content from `offset`.
    fn content(&self, inode: &Inode, offset: u64, length: u64) -> Result<Vec<u8>, ReadError> {
        let block = BLOCK as u64;
        let mut out = Vec::new();
        let mut at = offset;
        let end = offset.saturating_add(length).min(inode.size);
        while at < end {
            let next = (at + 1).next_multiple_of(block).min(end);
            let place = match inode.layout {
                FLAT_INLINE if at / block == inode.size / block => Some(inode.behind + at % block),
                FLAT_PLAIN | FLAT_INLINE => Some(u64::from(inode.union) * block + at),
                CHUNKS => {
                    let chunk_bytes = block << (inode.union & 0x1f);
                    let slot: [u8; 4] =
                        self.array(inode.behind.next_multiple_of(4) + 4 * (at / chunk_bytes))?;
                    let first = u32::from_le_bytes(slot);
                    (first != HOLE).then(|| u64::from(first) * block + at % chunk_bytes)
                }
                _ => return Err(Damaged("unknown inode layout")),
            };
            let step = usize::try_from(next - at).map_err(|_| Damaged("size"))?;
            let start = out.len();
            out.resize(start + step, 0);
            if let (Some(place), Some(room)) = (place, out.get_mut(start..)) {
                self.fill(place, room)?;
            }
            at = next;
        }
        Ok(out)
    }

    fn lookup(&self, directory: &Inode, wanted: &[u8]) -> Result<Option<u64>, ReadError> {
        let bad = || Damaged("directory block");
        let mut at = 0;
        while at < directory.size {
            let block = self.content(directory, at, BLOCK as u64)?;
            at += BLOCK as u64;
            let offset = |i: usize| {
                let field = block.get(i * DIRENT + 8..i * DIRENT + 10)?;
                Some(usize::from(u16::from_le_bytes(*field.first_chunk()?)))
            };
            let count = offset(0).ok_or_else(bad)? / DIRENT;
            for i in 0..count {
                let start = offset(i).ok_or_else(bad)?;
                let end = if i + 1 < count { offset(i + 1).ok_or_else(bad)? } else { block.len() };
                let name = block.get(start..end).ok_or_else(bad)?;
                if name.split(|b| *b == 0).next() == Some(wanted) {
                    let number =
                        block.get(i * DIRENT..).and_then(|b| b.first_chunk()).ok_or_else(bad)?;
                    return Ok(Some(u64::from_le_bytes(*number)));
                }
            }
        }
        Ok(None)
    }

    fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.fill(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads from the disk. Nothing that is read in one piece crosses two files: they all start on a block.
    fn fill(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let (file, start, _) = self
            .parts
            .iter()
            .find(|(_, start, end)| (*start..*end).contains(&at))
            .ok_or(Damaged("an address is outside"))?;
        file.read_exact_at(out, at - start)
            .map_err(|_| Damaged("an address is outside, or the disk file is cut short"))
    }
}
