//! The frame of the state file: what it is, which version, how long, and a checksum, before the body. All numbers are little-endian.
//!
//! ```text
//!  0        8         12             16              24                 56
//!  | magic  | version | 0            | body's length | body's SHA-256   | body ...
//! ```

use sha2::{Digest, Sha256};

use crate::api::SNAPSHOT_VERSION;

const MAGIC: &[u8; 8] = b"BLKHDVM\n";
const VERSION_AT: usize = 8;
const LENGTH_AT: usize = 16;
const CHECKSUM_AT: usize = 24;
const HEADER: usize = 56;
/// The longest body, in bytes. A machine with all its devices and processors takes a hundredth of it.
const MAX_BODY: usize = 4 << 20;
/// The longest file, in bytes.
pub(super) const MAX_FILE: usize = HEADER + MAX_BODY;

/// Why a file is no saved machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Nothing was written, or not yet.
    #[error("it is empty: the machine was not saved")]
    Empty,
    /// Another file.
    #[error("it is no saved machine")]
    Magic,
    /// Of another time.
    #[error(
        "it is of version {0}, this VMM knows version {SNAPSHOT_VERSION}; save the machine again"
    )]
    Version(u32),
    /// Cut off, or with more behind it.
    #[error("it has {found} bytes where {wanted} belong; save the machine again")]
    Length {
        /// The bytes that there should be.
        wanted: u64,
        /// Those that there are.
        found: u64,
    },
    /// Longer than any machine.
    #[error("it is longer than {MAX_FILE} bytes, which no saved machine is")]
    TooLong,
    /// Not what was written.
    #[error("it is damaged: its checksum does not match; save the machine again")]
    Checksum,
}

/// Puts `body` into a frame.
///
/// # Errors
/// [`FrameError::TooLong`].
pub(super) fn seal(body: &[u8]) -> Result<Vec<u8>, FrameError> {
    if body.len() > MAX_BODY {
        return Err(FrameError::TooLong);
    }
    let mut file = Vec::with_capacity(HEADER + body.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&(body.len() as u64).to_le_bytes());
    file.extend_from_slice(&Sha256::digest(body));
    file.extend_from_slice(body);
    Ok(file)
}

/// Takes the body out of its frame.
///
/// # Errors
/// [`FrameError`].
pub(super) fn open(file: &[u8]) -> Result<&[u8], FrameError> {
    if file.is_empty() {
        return Err(FrameError::Empty);
    }
    if file.len() > MAX_FILE {
        return Err(FrameError::TooLong);
    }
    let found = file.len() as u64;
    let Some((header, body)) = file.split_at_checked(HEADER) else {
        let wanted = HEADER as u64;
        return Err(match file.starts_with(MAGIC) {
            true => FrameError::Length { wanted, found },
            false => FrameError::Magic,
        });
    };
    if !header.starts_with(MAGIC) {
        return Err(FrameError::Magic);
    }
    let version = u32::from_le_bytes(field(header, VERSION_AT));
    if version != SNAPSHOT_VERSION {
        return Err(FrameError::Version(version));
    }
    let length = u64::from_le_bytes(field(header, LENGTH_AT));
    if length != body.len() as u64 {
        let wanted = length.saturating_add(HEADER as u64);
        return Err(FrameError::Length { wanted, found });
    }
    if field::<4>(header, VERSION_AT + 4) != [0; 4]
        || field::<32>(header, CHECKSUM_AT) != *Sha256::digest(body)
    {
        return Err(FrameError::Checksum);
    }
    Ok(body)
}

/// The `N` bytes at `at`; the header has them.
fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn each_wrong_part_has_its_own_words() {
        assert_eq!(open(&[]), Err(FrameError::Empty));
        assert_eq!(open(b"#!/bin/sh\n"), Err(FrameError::Magic));
        assert_eq!(open(&[0x7f; 4096]), Err(FrameError::Magic));
        assert_eq!(open(&vec![0; MAX_FILE + 1]), Err(FrameError::TooLong));
        let mut file = seal(b"body").unwrap();
        assert_eq!(open(&file[..20]), Err(FrameError::Length { wanted: 56, found: 20 }));
        assert_eq!(open(&file[..58]), Err(FrameError::Length { wanted: 60, found: 58 }));
        file[VERSION_AT] = 99;
        assert_eq!(open(&file), Err(FrameError::Version(99)));
        assert_eq!(seal(&vec![0; MAX_BODY + 1]), Err(FrameError::TooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_sealed_opens_and_nothing_else_does(
            body in vec(any::<u8>(), 0..300),
            flip in any::<prop::sample::Index>(),
            bit in 0u8..8,
            cut in any::<prop::sample::Index>(),
            more in vec(any::<u8>(), 1..9),
        ) {
            let file = seal(&body).unwrap();
            prop_assert_eq!(open(&file).unwrap(), &body[..]);
            let mut damaged = file.clone();
            damaged[flip.index(file.len())] ^= 1 << bit;
            prop_assert!(open(&damaged).is_err());
            prop_assert!(open(&file[..cut.index(file.len())]).is_err());
            let mut longer = file;
            longer.extend(more);
            prop_assert!(open(&longer).is_err());
        }
    }
}
