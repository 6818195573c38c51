//! EROFS's on-disk structures (fs/erofs/erofs_fs.h of Linux 6.1; Documentation/filesystems/erofs.rst), little-endian, byte for byte.

use crate::layer::Xattr;

/// log2 of the block size.
pub(super) const BLOCK_BITS: u8 = 12;
pub(super) const BLOCK: usize = 1 << BLOCK_BITS;
/// Where the superblock is.
pub(super) const SUPER_OFFSET: usize = 1024;
pub(super) const SUPER_SIZE: usize = 128;
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
/// Inodes are numbered in slots of this many bytes.
pub(super) const SLOT: u64 = 32;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT: usize = 12;

const COMPAT_SB_CHKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;

/// Data layouts (`EROFS_INODE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    FlatPlain = 0,
    FlatInline = 2,
    ChunkBased = 4,
}

/// What the superblock says beyond constants.
pub(super) struct Super {
    pub(super) root_slot: u16,
    pub(super) inodes: u64,
    pub(super) time: (i64, u32),
    pub(super) blocks: u32,
    pub(super) uuid: [u8; 16],
    pub(super) has_chunks: bool,
}

impl Super {
    /// Writes the superblock into `block`, the first block, and its checksum last: CRC-32C of the rest of the block from the superblock
    /// on, without the final inversion (`erofs_superblock_csum_verify`). The rest of the block is there already.
    pub(super) fn write(&self, block: &mut [u8; BLOCK]) {
        let mut at = Bytes { out: Vec::with_capacity(SUPER_SIZE) };
        at.u32(MAGIC).u32(0).u32(COMPAT_SB_CHKSUM | COMPAT_MTIME).u8(BLOCK_BITS).u8(0);
        at.u16(self.root_slot).u64(self.inodes);
        at.u64(self.time.0.cast_unsigned()).u32(self.time.1);
        // Both metadata areas start at block 0.
        at.u32(self.blocks).u32(0).u32(0);
        at.bytes(&self.uuid).bytes(b"bulkhead\0\0\0\0\0\0\0\0");
        at.u32(if self.has_chunks { INCOMPAT_CHUNKED_FILE } else { 0 });
        at.out.resize(SUPER_SIZE, 0);
        let (_, from_super) = block.split_at_mut(SUPER_OFFSET);
        if let Some(place) = from_super.first_chunk_mut::<SUPER_SIZE>() {
            place.copy_from_slice(&at.out);
        }
        seal(from_super);
    }
}

/// Writes the checksum of a first block, of which `from_super` is all from the superblock on, with the checksum field 0.
pub(super) fn seal(from_super: &mut [u8]) {
    let checksum = !crc32c::crc32c(from_super);
    if let Some(place) = from_super.get_mut(4..8) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// An inode, before it is known whether the short form will do.
pub(super) struct Inode {
    pub(super) layout: Layout,
    /// Type and permissions.
    pub(super) mode: u16,
    pub(super) links: u32,
    pub(super) size: u64,
    /// First block, device number, or chunk format.
    pub(super) union: u32,
    /// Only for 32-bit stat.
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) time: (i64, u32),
    /// Bytes of the attribute area.
    pub(super) xattr_bytes: usize,
}

impl Inode {
    /// Whether the 32-byte form holds it; its time is then the superblock's.
    pub(super) fn is_compact(&self, time: (i64, u32)) -> bool {
        self.uid <= 0xffff
            && self.gid <= 0xffff
            && self.links <= 0xffff
            && self.size <= 0xffff_ffff
            && self.time == time
    }

    pub(super) fn write(&self, compact: bool, out: &mut Vec<u8>) {
        let mut at = Bytes { out: std::mem::take(out) };
        at.u16(u16::from(!compact) | (self.layout as u16) << 1);
        // One for the header, one for each four bytes of entries; the area is bounded when a layer is read.
        let xattr_count =
            if self.xattr_bytes == 0 { 0 } else { (self.xattr_bytes - XATTR_HEADER) / 4 + 1 };
        at.u16(low16(xattr_count as u64)).u16(self.mode);
        if compact {
            at.u16(low16(u64::from(self.links)))
                .u32(low32(self.size))
                .u32(0)
                .u32(self.union)
                .u32(self.number);
            at.u16(low16(u64::from(self.uid))).u16(low16(u64::from(self.gid))).u32(0);
        } else {
            at.u16(0).u64(self.size).u32(self.union).u32(self.number).u32(self.uid).u32(self.gid);
            at.u64(self.time.0.cast_unsigned()).u32(self.time.1).u32(self.links).u64(0).u64(0);
        }
        *out = at.out;
    }
}

/// Bytes of `erofs_xattr_ibody_header`.
const XATTR_HEADER: usize = 12;

/// Bytes that the attributes take behind an inode.
pub(super) fn xattr_bytes(xattrs: &[Xattr]) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    XATTR_HEADER
        + xattrs
            .iter()
            .map(|x| (4 + x.name.len() + x.value.len()).next_multiple_of(4))
            .sum::<usize>()
}

/// Writes the attributes, all inline.
pub(super) fn write_xattrs(xattrs: &[Xattr], out: &mut Vec<u8>) {
    if xattrs.is_empty() {
        return;
    }
    out.extend_from_slice(&[0; XATTR_HEADER]);
    for xattr in xattrs {
        let start = out.len();
        // Names have at most 255 bytes, values at most 65535.
        out.push(u8::try_from(xattr.name.len()).unwrap_or(u8::MAX));
        out.push(xattr.prefix);
        out.extend_from_slice(&low16(xattr.value.len() as u64).to_le_bytes());
        out.extend_from_slice(&xattr.name);
        out.extend_from_slice(&xattr.value);
        let length = out.len() - start;
        out.resize(start + length.next_multiple_of(4), 0);
    }
}

/// Truncation on purpose: callers have checked the range.
pub(super) fn low16(value: u64) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

struct Bytes {
    out: Vec<u8>,
}

impl Bytes {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }
    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }
    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
}
