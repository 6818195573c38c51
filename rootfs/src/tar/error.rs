//! What can be wrong with a tar stream.

use std::io;

/// Why a tar stream was refused. `offset` is the header's position in the uncompressed stream, in bytes.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream could not be read (decompression included).
    #[error("the stream cannot be read")]
    Read(#[source] io::Error),
    /// The stream ends inside an entry.
    #[error("the tar stream is cut short at byte {0}")]
    Truncated(u64),
    /// A header whose checksum is wrong: not a tar stream, or damaged.
    #[error("no valid tar header at byte {0} (checksum mismatch)")]
    Checksum(u64),
    /// A numeric field that is no number, or out of range.
    #[error("the {field} of the tar header at byte {offset} is not a number in range")]
    Number {
        /// The field's name.
        field: &'static str,
        /// Where the header is.
        offset: u64,
    },
    /// A malformed pax extended header (POSIX.1-2017, pax, "pax Extended Header").
    #[error("the pax header at byte {0} is malformed")]
    Pax(u64),
    /// A pax header or a GNU long name beyond the limit.
    #[error("the extended header at byte {offset} has {size} bytes; at most {limit} are allowed")]
    HeaderTooLarge {
        /// Where the header is.
        offset: u64,
        /// Its size.
        size: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// A malformed sparse map, of whichever of GNU tar's formats.
    #[error("the sparse map of the entry at byte {0} is malformed or has too many segments")]
    Sparse(u64),
    /// An entry type that no container runtime extracts.
    #[error("entry type '{}' of \"{path}\" is not supported", .kind.escape_ascii())]
    Type {
        /// The type flag.
        kind: u8,
        /// The entry's path.
        path: String,
    },
    /// More bytes than a layer may have.
    #[error("the layer has more than {0} bytes when it is uncompressed")]
    TooLong(u64),
}
