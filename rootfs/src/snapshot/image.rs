//! Directories that are mounted EROFS files, as containerd's erofs snapshotter has its layers. Such a file is a data blob already: each of its files lies in
//! it in one piece, on a block boundary, so that only the index is made.
//!
//! Which file is mounted is what mountinfo says, and the loop device if there is one between. A path proves nothing, so the file must have the identifier
//! that the mounted file system tells, which its maker made from a random number or from the layer's digest.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::FileExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Statx, StatxAttributes, StatxFlags},
    io::Errno,
    ioctl::{Updater, ioctl, opcode},
};

use crate::BLOCK;

/// The superblock, and fields of it (`struct erofs_super_block`, fs/erofs/erofs_fs.h).
const SUPER: u64 = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_BITS: usize = 12;
const BLOCKS: usize = 36;
const UUID: usize = 48;
const EXTRA_DEVICES: usize = 86;

/// An EROFS file.
pub(super) struct Image {
    /// Where it is.
    pub(super) path: PathBuf,
    /// It, open.
    pub(super) file: File,
    /// Its length.
    pub(super) blocks: u32,
}

impl Image {
    /// The one that is mounted on an open directory; `None`: nothing such is, or it cannot be told which one.
    pub(super) fn mounted(directory: &OwnedFd) -> Option<Self> {
        let mounted = rustix::fs::fstatfs(directory).ok()?;
        if u32::try_from(mounted.f_type).ok()? != MAGIC {
            return None;
        }
        let flags = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let look = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, flags).ok()?;
        if !look.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return None;
        }
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let source = source(&table, look.stx_mnt_id)?;
        let path = if source.starts_with("/dev") { looped(&look)? } else { source };
        let image = Self::open(&path).ok()?;
        let found = image.superblock().ok()?;
        let told = rustix::fs::fstatvfs(directory).ok()?;
        let whole = u64::from(found.blocks) <= u64::from(image.blocks);
        let same = found.id() == Some(told.f_fsid) && u64::from(found.blocks) == told.f_blocks;
        (whole && same && found.alone).then_some(image)
    }

    /// The regular file at a path.
    pub(super) fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let facts = file.metadata().map_err(|_| Errno::IO)?;
        let blocks = u32::try_from(facts.len() / BLOCK).ok();
        match blocks.filter(|_| facts.is_file() && facts.len().is_multiple_of(BLOCK)) {
            Some(blocks) => Ok(Self { path: path.into(), file, blocks }),
            None => Err(Errno::INVAL),
        }
    }

    /// The block of it at which a file of the mounted file system begins whose `size` bytes lie there in one piece; `None`: they do not.
    pub(super) fn place(&self, file: BorrowedFd<'_>, size: u64) -> Option<u32> {
        let extent = extent(file, size)?;
        let plain = extent.flags & !LAST == 0
            && extent.logical == 0
            && extent.length.next_multiple_of(BLOCK) >= size
            && extent.physical.is_multiple_of(BLOCK);
        let first = u32::try_from(extent.physical / BLOCK).ok().filter(|_| plain)?;
        let end = u64::from(first) + size.div_ceil(BLOCK);
        (end <= u64::from(self.blocks)).then_some(first)
    }

    fn superblock(&self) -> io::Result<Superblock> {
        let mut bytes = [0; 128];
        self.file.read_exact_at(&mut bytes, SUPER)?;
        let word = |at: usize| {
            bytes
                .get(at..)
                .and_then(<[u8]>::first_chunk)
                .map_or(0, |word| u32::from_le_bytes(*word))
        };
        let uuid = bytes.get(UUID..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let extra = bytes.get(EXTRA_DEVICES..).and_then(<[u8]>::first_chunk);
        let usual = word(0) == MAGIC
            && bytes
                .get(BLOCK_BITS)
                .is_some_and(|bits| Some(BLOCK) == 1_u64.checked_shl((*bits).into()));
        Ok(Superblock { blocks: word(BLOCKS), uuid, alone: usual && extra == Some(&[0, 0]) })
    }
}

/// What a superblock says.
struct Superblock {
    blocks: u32,
    uuid: [u8; 16],
    /// Blocks are of the usual size, and all data is in this file.
    alone: bool,
}

impl Superblock {
    /// What fstatfs(2) tells of it when it is mounted (`uuid_to_fsid`, include/linux/statfs.h); `None`: it has no identifier.
    fn id(&self) -> Option<u64> {
        let (halves, _) = self.uuid.as_chunks::<8>();
        let id = halves.iter().fold(0, |id, half| id ^ u64::from_le_bytes(*half));
        (self.uuid != [0; 16]).then_some(id)
    }
}

/// The source of a mount of a whole file system, by its number (proc_pid_mountinfo(5)).
fn source(table: &str, mount: u64) -> Option<PathBuf> {
    let number = mount.to_string();
    let line = table.lines().find(|line| line.split(' ').next() == Some(&number))?;
    let (own, rest) = line.split_once(" - ")?;
    // What is mounted is its root.
    if own.split(' ').nth(3) != Some("/") {
        return None;
    }
    let source = rest.split(' ').nth(1)?;
    let source = unescaped(source.as_bytes())?;
    source.starts_with(b"/").then(|| std::ffi::OsString::from_vec(source).into())
}

/// Without mountinfo's `\040` and the like.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<3>()?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
        rest = after;
    }
    Some(out)
}

/// The file of the loop device that a file system is on.
fn looped(look: &Statx) -> Option<PathBuf> {
    let device = format!("/sys/dev/block/{}:{}/loop", look.stx_dev_major, look.stx_dev_minor);
    let read = |name: &str| fs::read(format!("{device}/{name}")).ok();
    if read("offset")?.trim_ascii() != b"0" {
        return None;
    }
    let mut path = read("backing_file")?;
    if path.last() == Some(&b'\n') {
        path.pop();
    }
    Some(std::ffi::OsString::from_vec(path).into())
}

/// Where data is (`FS_IOC_FIEMAP`, Documentation/filesystems/fiemap.rst): `struct fiemap` and room for one `struct fiemap_extent`.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    extent: Extent,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more: [u32; 3],
}

/// Bytes of `struct fiemap`, which the request's number has, without extents.
type Header = [u8; 32];
const FIEMAP: rustix::ioctl::Opcode = opcode::read_write::<Header>(b'f', 11);
/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 1;

/// The first extent of a file, if the kernel can say; the caller sees whether it is all of it.
fn extent(file: impl AsFd, size: u64) -> Option<Extent> {
    let mut request = Request {
        start: 0,
        length: size,
        flags: 0,
        mapped: 0,
        room: 1,
        reserved: 0,
        extent: Extent::default(),
    };
    // SAFETY: FS_IOC_FIEMAP takes a `struct fiemap` with as many extents behind it as it says there is room for, which is one.
    let asked = unsafe { ioctl(file, Updater::<FIEMAP, Request>::new(&mut request)) };
    asked.ok()?;
    (request.mapped == 1).then_some(request.extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounts_source_is_found_by_its_number() {
        let table = "22 1 0:2 / / rw - ext4 /dev/root rw\n\
            93 27 0:48 / /m ro,relatime shared:1 master:2 - erofs /a\\040b\\134c ro\n\
            94 27 0:48 /sub /n ro - erofs /a ro\n95 27 0:49 / /o ro - erofs none ro\n";
        assert_eq!(source(table, 93).unwrap(), Path::new("/a b\\c"));
        assert_eq!(source(table, 22).unwrap(), Path::new("/dev/root"));
        for (mount, why) in [(9, "missing"), (94, "a part"), (95, "no path")] {
            assert_eq!(source(table, mount), None, "{why}");
        }
        assert_eq!(unescaped(b"a\\04"), None);
        assert_eq!(unescaped(b"a\\999"), None);
    }

    #[test]
    fn a_superblocks_identifier_is_what_the_kernel_makes_of_it() {
        let uuid = [
            0xac, 0x7f, 0x55, 0xb6, 0x0f, 0xd4, 0x4c, 0x78, 0xa5, 0x33, 0x5d, 0x1f, 0x59, 0x24,
            0xca, 0x2c,
        ];
        let with = |uuid| Superblock { blocks: 5, uuid, alone: true };
        assert_eq!(with(uuid).id(), Some(0x5486_f056_a908_4c09));
        assert_eq!(with([0; 16]).id(), None);
    }
}
