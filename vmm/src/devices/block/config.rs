//! The block device's configuration space and features (virtio 1.3, 5.2.3 and 5.2.4).

use super::{SECTOR, SEG_MAX, SIZE_MAX};
use crate::devices::virtio::feature;

/// `VIRTIO_BLK_F_SIZE_MAX`.
const F_SIZE_MAX: u64 = 1 << 1;
/// `VIRTIO_BLK_F_SEG_MAX`.
const F_SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`.
const F_RO: u64 = 1 << 5;
/// `VIRTIO_BLK_F_BLK_SIZE`.
const F_BLK_SIZE: u64 = 1 << 6;
/// `VIRTIO_BLK_F_FLUSH`.
const F_FLUSH: u64 = 1 << 9;
/// `VIRTIO_BLK_F_TOPOLOGY`.
const F_TOPOLOGY: u64 = 1 << 10;
/// `VIRTIO_BLK_F_DISCARD`.
const F_DISCARD: u64 = 1 << 13;
/// `VIRTIO_BLK_F_WRITE_ZEROES`.
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Bytes in the host's blocks: what a driver should align to.
const PHYSICAL_BLOCK: u64 = 4096;
/// The most ranges in a discard or write-zeroes request.
pub(super) const MAX_RANGES: u32 = 16;
/// The most sectors in a discard range: 2 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 4 << 20;
/// The most sectors in a write-zeroes range: 16 MiB, because the host may have to write them.
pub(super) const MAX_ZERO_SECTORS: u32 = 32 << 10;

/// `struct virtio_blk_config` up to `write_zeroes_may_unmap`.
#[derive(Debug)]
pub(super) struct ConfigSpace {
    bytes: [u8; 60],
    read_only: bool,
}

impl ConfigSpace {
    pub(super) fn new(sectors: u64, read_only: bool) -> Self {
        let mut config = Self { bytes: [0; 60], read_only };
        config.put(0, &sectors.to_le_bytes());
        config.put(8, &SIZE_MAX.to_le_bytes());
        config.put(12, &SEG_MAX.to_le_bytes());
        config.put(20, &512u32.to_le_bytes());
        // Topology: physical_block_exp (log2 of logical blocks in a physical one), alignment_offset, min_io_size, opt_io_size.
        let blocks = PHYSICAL_BLOCK / SECTOR;
        config.put(24, &[blocks.ilog2().to_le_bytes()[0], 0, blocks.to_le_bytes()[0], 0]);
        if !read_only {
            config.put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            config.put(40, &MAX_RANGES.to_le_bytes());
            config.put(44, &(8u32).to_le_bytes());
            config.put(48, &MAX_ZERO_SECTORS.to_le_bytes());
            config.put(52, &MAX_RANGES.to_le_bytes());
            config.put(56, &[1]);
        }
        config
    }

    /// Another medium has so many.
    pub(super) fn set_sectors(&mut self, sectors: u64) {
        self.put(0, &sectors.to_le_bytes());
    }

    pub(super) fn features(&self) -> u64 {
        let writing = if self.read_only { F_RO } else { F_FLUSH | F_DISCARD | F_WRITE_ZEROES };
        feature::EVENT_IDX
            | feature::INDIRECT_DESC
            | F_SIZE_MAX
            | F_SEG_MAX
            | F_BLK_SIZE
            | F_TOPOLOGY
            | writing
    }

    /// Copies what there is from `offset` on.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..));
        for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
            *to = *from;
        }
    }

    fn put(&mut self, offset: usize, value: &[u8]) {
        self.bytes[offset..offset + value.len()].copy_from_slice(value);
    }
}
