//! The device table: where each data blob begins on the disk (`struct erofs_deviceslot`, fs/erofs/erofs_fs.h of Linux 5.16 and later).
//!
//! It stands behind the superblock of every metadata blob. A microVM's disk is one device, whose superblock does not mention the table. This
//! host's kernel mounts the metadata blob with each data blob as a device of its own, so that its superblock, in a variant of the blob, does.
//! Block addresses are the same for both, since each device's place on the disk is in its slot.

use super::disk::{BLOCK, SUPER_OFFSET, SUPER_SIZE, seal};

/// Byte offset of the table in the metadata blob.
pub(super) const TABLE: u64 = (SUPER_OFFSET + SUPER_SIZE) as u64;
/// Bytes of a slot, and the unit of the table's offset in the superblock.
const SLOT: usize = 128;
/// Where a slot has the device's length and its first block on the disk.
const SLOT_BLOCKS: usize = 64;
const SLOT_ADDRESS: usize = 68;

/// Fields of the superblock.
const CHECKSUM: usize = 4;
const BLOCKS: usize = 36;
const FEATURE_INCOMPAT: usize = 80;
const EXTRA_DEVICES: usize = 86;
const TABLE_SLOT: usize = 88;
const INCOMPAT_DEVICE_TABLE: u32 = 8;

/// Where the table of so many blobs ends.
pub(super) fn end(blobs: usize) -> u64 {
    TABLE + (SLOT * blobs) as u64
}

/// Writes the table of blobs that begin at the blocks `starts` and have so many blocks.
pub(super) fn write_table(starts: &[u64], blocks: &[u32], out: &mut Vec<u8>) {
    for (start, blocks) in starts.iter().zip(blocks) {
        // The disk has fewer than 2^32 blocks, which is checked before it is written.
        let start = u32::try_from(*start).unwrap_or(u32::MAX);
        let mut slot = [0; SLOT];
        put(&mut slot, SLOT_BLOCKS, &blocks.to_le_bytes());
        put(&mut slot, SLOT_ADDRESS, &start.to_le_bytes());
        out.extend_from_slice(&slot);
    }
}

/// Makes of a metadata blob the variant for this host's kernel, in place. `blobs` are the lengths of the data blobs, in blocks. False if the blob
/// has no table of them.
pub(crate) fn for_host(metadata: &mut [u8], blobs: &[u64]) -> bool {
    let mut start = (metadata.len() / BLOCK) as u64;
    let mut table =
        metadata.get(SUPER_OFFSET + SUPER_SIZE..).unwrap_or_default().chunks_exact(SLOT);
    for blocks in blobs {
        let Some(slot) = table.next() else { return false };
        if field(slot, SLOT_BLOCKS) != Some(*blocks) || field(slot, SLOT_ADDRESS) != Some(start) {
            return false;
        }
        start += blocks;
    }
    let own = u32::try_from(metadata.len() / BLOCK);
    let (Ok(own), Ok(devices)) = (own, u16::try_from(blobs.len())) else { return false };
    let Some(first) = metadata.get_mut(SUPER_OFFSET..BLOCK) else { return false };
    if blobs.is_empty() {
        return true;
    }
    let Some(features) = first.get(FEATURE_INCOMPAT..).and_then(<[u8]>::first_chunk) else {
        return false;
    };
    let features = u32::from_le_bytes(*features) | INCOMPAT_DEVICE_TABLE;
    put(first, BLOCKS, &own.to_le_bytes());
    put(first, FEATURE_INCOMPAT, &features.to_le_bytes());
    put(first, EXTRA_DEVICES, &devices.to_le_bytes());
    // The table's offset is a small constant.
    put(first, TABLE_SLOT, &u16::try_from(TABLE / SLOT as u64).unwrap_or(0).to_le_bytes());
    put(first, CHECKSUM, &[0; 4]);
    seal(first);
    true
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = to.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn field(slot: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(*slot.get(at..)?.first_chunk()?)))
}
