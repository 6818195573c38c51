//! Why a layer was refused: [`LayerError`] is about the stream, [`EntryError`] about one entry of it.

use std::io;

use crate::{Digest, path::PathError, tar::TarError};

/// Why a layer could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// One entry was refused.
    #[error("entry \"{path}\"")]
    Entry {
        /// The entry's path, made printable.
        path: String,
        /// What is wrong with it.
        #[source]
        source: EntryError,
    },
    /// The tar stream is damaged.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The stream is not what its digest says.
    #[error("digest mismatch: the {what} is {actual}, but {expected} was promised")]
    Digest {
        /// Which stream: the blob, or the uncompressed layer.
        what: &'static str,
        /// The digest that was computed.
        actual: Digest,
        /// The digest that was promised.
        expected: Digest,
    },
    /// The blob's size is not the one in its descriptor.
    #[error("size mismatch: the blob has {actual} bytes, but {expected} were promised")]
    Size {
        /// Bytes that are there.
        actual: u64,
        /// Bytes that the descriptor promises.
        expected: u64,
    },
    /// The layer's blob could not be opened or read.
    #[error("the layer's blob cannot be read")]
    Read(#[source] io::Error),
    /// The store could not be written.
    #[error("the store cannot be written")]
    Write(#[source] io::Error),
    /// More entries than allowed.
    #[error("the layer has more than {0} entries")]
    TooManyEntries(usize),
    /// More names, attributes and maps than allowed.
    #[error("the layer's names and attributes need more than {0} bytes")]
    TooMuchMetadata(usize),
}

/// Why one entry of a layer was refused.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A bad name.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The entry's path, or its hard link target, goes through a symbolic link of the same layer.
    #[error("the path goes through the symbolic link \"{0}\" of the same layer")]
    ThroughSymlink(String),
    /// The path goes through something that is no directory.
    #[error("the path goes through \"{0}\", which is not a directory")]
    ThroughFile(String),
    /// The name is there already, and both are not directories.
    #[error("the layer has this name twice, and not both are directories")]
    Duplicate,
    /// The root is something other than a directory.
    #[error("the image's root is not a directory here")]
    RootNotDirectory,
    /// `.wh.` without a name, or a whiteout used as a directory.
    #[error("a whiteout must name what it hides and cannot be a directory on a path")]
    BadWhiteout,
    /// A hard link to a directory, to itself, or to nothing.
    #[error("the hard link's target \"{0}\" is not a file of this layer or of one below it")]
    LinkTarget(String),
    /// A hard link whose target is a bad name.
    #[error("the hard link's target \"{target}\" is refused")]
    LinkTargetPath {
        /// The target, made printable.
        target: String,
        /// What is wrong with it.
        #[source]
        source: PathError,
    },
    /// A symbolic link that is empty, too long, or holds a NUL.
    #[error("the symbolic link's target must have 1 to 4095 bytes and no NUL")]
    SymlinkTarget,
    /// A user or group id outside 0 to 4294967294.
    #[error("the owner {0} is out of range: at most 4294967294")]
    Owner(u64),
    /// A device number beyond Linux's 12 and 20 bits.
    #[error("the device number {major}:{minor} is out of range: at most 4095:1048575")]
    DeviceNumber {
        /// Major number.
        major: u64,
        /// Minor number.
        minor: u64,
    },
    /// An extended attribute that cannot be stored.
    #[error(
        "the extended attribute \"{0}\" is malformed or too large: at most 255 bytes of name and 65535 of value"
    )]
    Xattr(String),
    /// Too many extended attributes.
    #[error("the extended attributes need more than {0} bytes")]
    XattrArea(usize),
    /// A file beyond the limit.
    #[error("the file has {0} bytes; at most 16 TiB are allowed")]
    FileTooLarge(u64),
    /// More content than the entry's size.
    #[error("the content is longer than the file's {0} bytes")]
    Overrun(u64),
    /// The layer's content needs more than 16 TiB of block addresses.
    #[error("the layer's content does not fit into 16 TiB")]
    BlobFull,
    /// The store's file system is nearly full.
    #[error(
        "the store's file system has only {free} bytes left; free some space, or move the store"
    )]
    NoSpace {
        /// Bytes left.
        free: u64,
    },
    /// The stream broke inside the content.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The blob could not be written.
    #[error("the store cannot be written")]
    Write(#[source] io::Error),
}
