//! What a chain asks of the disk (virtio 1.3, 5.2.6): parsed, checked, done, and the status to answer with.

use std::io;

use super::{
    MAX_DATA, SECTOR,
    config::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZERO_SECTORS},
    disk::Disk,
};
use crate::devices::{BlockCounts, virtio::Chain};

/// Bytes in the answer to `VIRTIO_BLK_T_GET_ID`.
pub(super) const ID_LENGTH: usize = 20;
/// Bytes of `type`, `reserved` and `sector`.
const HEADER: usize = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes`.
const RANGE: usize = 16;
/// `unmap` of a range's flags.
const UNMAP: u32 = 1;

/// The last byte of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// `VIRTIO_BLK_S_OK`.
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`.
    IoError = 1,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported = 2,
}

/// Why a request was not done. The driver sees only the status.
#[derive(Debug)]
enum Refusal {
    /// It makes no sense.
    Malformed,
    /// It asks for what the device did not offer.
    Unsupported,
    /// A write to a read-only disk.
    ReadOnly,
    /// The host's file failed.
    Io,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Refusal::Io
    }
}

/// Whether ranges are discarded or zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clear {
    Discard,
    Zero,
}

/// Does what the chain asks and writes the status; returns the number of bytes written to the chain.
pub(super) fn answer(chain: &Chain<'_>, disk: &Disk, counts: &BlockCounts) -> u32 {
    counts.requests.add(1);
    let (status, data) = match execute(chain, disk, counts) {
        Ok(data) => (Status::Ok, data),
        Err(refusal) => {
            counts.errors.add(1);
            let unsupported = matches!(refusal, Refusal::Unsupported);
            (if unsupported { Status::Unsupported } else { Status::IoError }, 0)
        }
    };
    // The status is the last writable byte; where there is none, nothing can be said.
    let Some(place) = chain.writable.len().checked_sub(1) else { return 0 };
    chain.writable.write(place, &[status as u8]);
    data + 1
}

/// Returns the number of data bytes written to the chain.
fn execute(chain: &Chain<'_>, disk: &Disk, counts: &BlockCounts) -> Result<u32, Refusal> {
    let mut header = [0; HEADER];
    if chain.fault().is_some() || chain.writable.is_empty() || !chain.readable.read(0, &mut header)
    {
        return Err(Refusal::Malformed);
    }
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    let to_guest = chain.writable.len() - 1;
    let from_guest = chain.readable.len() - HEADER;
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        // VIRTIO_BLK_T_IN
        0 => {
            let position = locate(disk, sector, to_guest)?;
            disk.read(position, &chain.writable, 0, to_guest)?;
            counts.read.add(to_guest as u64);
            u32::try_from(to_guest).map_err(|_| Refusal::Malformed)
        }
        // VIRTIO_BLK_T_OUT
        1 => {
            writable(disk)?;
            let position = locate(disk, sector, from_guest)?;
            disk.write(position, &chain.readable, HEADER, from_guest)?;
            counts.written.add(from_guest as u64);
            Ok(0)
        }
        // VIRTIO_BLK_T_FLUSH
        4 => {
            disk.flush()?;
            Ok(0)
        }
        // VIRTIO_BLK_T_GET_ID
        8 => {
            let mut id = [0; ID_LENGTH];
            id[..disk.id().len()].copy_from_slice(disk.id().as_bytes());
            if to_guest < ID_LENGTH || !chain.writable.write(0, &id) {
                return Err(Refusal::Malformed);
            }
            Ok(20)
        }
        // VIRTIO_BLK_T_DISCARD
        11 => clear(chain, disk, Clear::Discard),
        // VIRTIO_BLK_T_WRITE_ZEROES
        13 => clear(chain, disk, Clear::Zero),
        _ => Err(Refusal::Unsupported),
    }
}

fn writable(disk: &Disk) -> Result<(), Refusal> {
    if disk.is_read_only() { Err(Refusal::ReadOnly) } else { Ok(()) }
}

fn locate(disk: &Disk, sector: u64, length: usize) -> Result<u64, Refusal> {
    let sectors = length as u64 / SECTOR;
    if length > MAX_DATA || !(length as u64).is_multiple_of(SECTOR) {
        return Err(Refusal::Malformed);
    }
    disk.locate(sector, sectors).ok_or(Refusal::Malformed)
}

fn clear(chain: &Chain<'_>, disk: &Disk, what: Clear) -> Result<u32, Refusal> {
    writable(disk)?;
    let length = chain.readable.len() - HEADER;
    if !length.is_multiple_of(RANGE) || length / RANGE > MAX_RANGES as usize {
        return Err(Refusal::Malformed);
    }
    let limit = if what == Clear::Discard { MAX_DISCARD_SECTORS } else { MAX_ZERO_SECTORS };
    for offset in (HEADER..HEADER + length).step_by(RANGE) {
        let mut range = [0; RANGE];
        if !chain.readable.read(offset, &mut range) {
            return Err(Refusal::Malformed);
        }
        let [s @ .., n0, n1, n2, n3, f0, f1, f2, f3] = range;
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        // Reserved flags, and unmap for a discard, must be answered so (virtio 1.3, 5.2.6.2).
        if flags & !UNMAP != 0 || (what == Clear::Discard && flags != 0) {
            return Err(Refusal::Unsupported);
        }
        let position = disk
            .locate(u64::from_le_bytes(s), u64::from(sectors))
            .filter(|_| sectors > 0 && sectors <= limit)
            .ok_or(Refusal::Malformed)?;
        let bytes = u64::from(sectors) * SECTOR;
        match what {
            Clear::Discard => disk.discard(position, bytes)?,
            Clear::Zero => disk.zero(position, bytes, flags & UNMAP != 0)?,
        }
    }
    Ok(0)
}
