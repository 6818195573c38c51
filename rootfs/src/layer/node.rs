//! What a layer says about one name: the entry of a layer's index, and what the merge and the EROFS writer work on.

use serde::{Deserialize, Serialize};

/// A chunk without data (`EROFS_NULL_ADDR`).
pub(crate) const HOLE: u32 = u32::MAX;

/// One name of a layer. Node 0 is the root; a parent always stands before its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) parent: u32,
    #[serde(with = "serde_bytes")]
    pub(crate) name: Box<[u8]>,
    /// The layer hides what lower layers have under this name (`.wh.NAME`).
    pub(crate) whiteout: bool,
    /// The layer hides what lower layers have in this directory (`.wh..wh..opq`).
    pub(crate) opaque: bool,
    pub(crate) kind: NodeKind,
}

/// What the layer puts under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NodeKind {
    /// Nothing: the name is only hidden.
    Absent,
    /// A directory that only paths through it imply.
    Implied,
    Directory(Attributes),
    File(Attributes, Content),
    Symlink(Attributes, #[serde(with = "serde_bytes")] Box<[u8]>),
    /// A block device if `block`, else a character device; `rdev` as Linux encodes it on disk (`new_encode_dev`).
    Device {
        attributes: Attributes,
        block: bool,
        rdev: u32,
    },
    Fifo(Attributes),
    /// A hard link to another node of this layer, which is no directory and no hard link itself.
    Link(u32),
    /// A hard link to a file that a lower layer must have, by its path.
    LinkBelow(#[serde(with = "serde_bytes")] Box<[u8]>),
}

/// Owner, permissions, time and extended attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    /// Permission bits, set-id and sticky bits; not the type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_ns: u32,
    pub(crate) xattrs: Vec<Xattr>,
}

/// An extended attribute as EROFS stores it: the prefix as a number, the rest of the name, the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Xattr {
    pub(crate) prefix: u8,
    #[serde(with = "serde_bytes")]
    pub(crate) name: Box<[u8]>,
    #[serde(with = "serde_bytes")]
    pub(crate) value: Box<[u8]>,
}

/// A regular file's size and where its content is, in blocks of the layer's data blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) map: Map,
}

/// Where a file's content is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Map {
    /// One run of blocks from here.
    Flat(u32),
    /// Chunks of `2^bits` blocks each; [`HOLE`] for a chunk of zeros.
    Chunks { bits: u8, blocks: Vec<u32> },
}

impl Attributes {
    /// Bytes of memory that it takes beyond its own size.
    pub(crate) fn weight(&self) -> usize {
        self.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum()
    }
}

impl NodeKind {
    pub(crate) fn is_directory(&self) -> bool {
        matches!(self, Self::Implied | Self::Directory(_))
    }
}

impl Content {
    /// Blocks of the data blob that the map may refer to, as far as it goes: one past the last.
    pub(crate) fn end_block(&self) -> u64 {
        let blocks = self.size.div_ceil(crate::BLOCK);
        match &self.map {
            Map::Flat(first) => u64::from(*first) + blocks,
            Map::Chunks { bits, blocks: chunks } => chunks
                .iter()
                .enumerate()
                .filter(|(_, block)| **block != HOLE)
                .map(|(i, block)| {
                    u64::from(*block) + (blocks.saturating_sub((i as u64) << bits)).min(1 << bits)
                })
                .max()
                .unwrap_or(0),
        }
    }
}
