//! preadv(2) and pwritev(2) between a file and guest memory, without a copy, until all is done.

use std::{fs::File, io, os::fd::AsRawFd};

use crate::{devices::virtio::IoVectors, memory::VolatileSlice};

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the file to memory.
    Read,
    /// From memory to the file.
    Write,
}

/// Moves all bytes of `slices`, from `position` of the file on.
///
/// A file that ends too early is an error: it was longer when it was opened.
pub(super) fn transfer<'m>(
    file: &File,
    mut position: u64,
    mut slices: impl Iterator<Item = VolatileSlice<'m>>,
    direction: Direction,
) -> io::Result<()> {
    loop {
        let mut vectors = IoVectors::new(&mut slices);
        if vectors.is_empty() {
            return Ok(());
        }
        while !vectors.is_empty() {
            let moved = call(file, position, &vectors, direction)?;
            position += moved as u64;
            vectors.advance(moved);
        }
    }
}

/// One system call; never returns zero bytes.
fn call(
    file: &File,
    position: u64,
    vectors: &IoVectors<'_>,
    direction: Direction,
) -> io::Result<usize> {
    let vectors = vectors.as_slice();
    let position = libc::off_t::try_from(position).map_err(io::Error::other)?;
    let count = libc::c_int::try_from(vectors.len()).map_err(io::Error::other)?;
    loop {
        // SAFETY: the vectors are mapped guest memory for as long as `IoVectors` lives. The kernel accesses it as the guest may
        // at any time; no Rust reference to it exists. The descriptor is open.
        let result = unsafe {
            match direction {
                Direction::Read => {
                    libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, position)
                }
                Direction::Write => {
                    libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, position)
                }
            }
        };
        match usize::try_from(result) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => return Ok(moved),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
