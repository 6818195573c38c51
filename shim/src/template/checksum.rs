//! The sum of a file's contents, by which damage is found.
//!
//! It is CRC-32: what it is for is a disk's mistakes and cut files, since whoever may write a template may write its sum,
//! too. zlib-rs, by way of flate2, which reads images already, computes it with carry-less multiplication at
//! the speed of memory, so that no other library is needed.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
};

use flate2::Crc;
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// Pages of zeros are left out, be they holes or not: copies of a file may have other holes.
const PAGE: usize = 4096;
const CHUNK: usize = 64 * PAGE;

/// What a file must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sum {
    /// Its length in bytes.
    pub(super) size: u64,
    /// Of the pages that are not zero, each behind its number.
    crc: u32,
}

/// Reads all of a file that is not a hole.
pub(super) fn sum(file: &File) -> io::Result<Sum> {
    let size = file.metadata()?.len();
    let mut crc = Crc::new();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while let Some(start) = data(file, at)?.filter(|&start| start < size) {
        // File systems keep holes of whole pages; if not, the rest of the page is zero.
        at = start - start % PAGE as u64;
        let length = fill(file, &mut chunk, at)?;
        if length == 0 {
            break;
        }
        for page in chunk.get(..length).unwrap_or_default().chunks(PAGE) {
            if page.iter().any(|&byte| byte != 0) {
                crc.update(&(at / PAGE as u64).to_le_bytes());
                crc.update(page);
            }
            at += PAGE as u64;
        }
    }
    Ok(Sum { size, crc: crc.sum() })
}

/// Where the next bytes are that are no hole.
fn data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(from)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        // A file system without holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(from)),
        Err(error) => Err(error.into()),
    }
}

/// Reads until the chunk is full or the file ends.
fn fill(file: &File, chunk: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = chunk.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: u64, parts: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        file.set_len(length).unwrap();
        file
    }

    #[test]
    fn holes_are_zeros_and_every_bit_counts() {
        const LENGTH: u64 = 3 << 20;
        let parts: &[(u64, &[u8])] = &[(5000, b"one"), (2 << 20, b"two"), (LENGTH - 3, b"end")];
        let first = sum(&file(LENGTH, parts)).unwrap();
        let zeros = vec![0; 1 << 20];
        let written = file(LENGTH, &[&[(1 << 19, zeros.as_slice())], parts].concat());
        assert_eq!(sum(&written).unwrap(), first);
        let longer = file(LENGTH + 1, parts);
        let moved = file(LENGTH, &[(5000 + 4096, b"one"), parts[1], parts[2]]);
        let flipped = file(LENGTH, &[(5000, b"ooe"), parts[1], parts[2]]);
        for other in [longer, moved, flipped] {
            assert_ne!(sum(&other).unwrap(), first);
        }
        assert_eq!(sum(&file(LENGTH, &[])).unwrap(), Sum { size: LENGTH, crc: 0 });
        assert_eq!(sum(&file(0, &[])).unwrap(), Sum { size: 0, crc: 0 });
    }
}
