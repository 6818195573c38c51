//! A layer's index file: what the layer's tree is and where the content lies in the data blob. Postcard inside a small frame:
//! magic with version, length, SHA-256 of the payload, payload.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::node::{Node, NodeKind};
use crate::{Digest, limits};

const MAGIC: &[u8; 8] = b"BHLAYER1";

/// A layer in the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerIndex {
    /// Blocks of the data blob.
    pub(crate) data_blocks: u32,
    pub(crate) nodes: Vec<Node>,
}

impl LayerIndex {
    /// Writes the index to `path` and makes it durable.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let payload = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let mut file = File::create_new(path)?;
        file.write_all(
            &[&MAGIC[..], &(payload.len() as u64).to_le_bytes(), Digest::of(&payload).bytes()]
                .concat(),
        )?;
        file.write_all(&payload)?;
        file.sync_all()
    }

    /// Reads the index at `path`. `budget` is how many bytes it may have; what it uses is taken off.
    pub(crate) fn read(path: &Path, budget: &mut u64) -> io::Result<Self> {
        let corrupt = |what: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is corrupt: {what}", path.display()),
            )
        };
        let mut file = File::open(path)?;
        let mut head = [0; 48];
        file.read_exact(&mut head)?;
        let (magic, rest) = head.split_at(8);
        let (length, digest) = rest.split_at(8);
        if magic != MAGIC {
            return Err(corrupt("unknown magic or version"));
        }
        let length = u64::from_le_bytes(length.try_into().map_err(io::Error::other)?);
        *budget = budget.checked_sub(length).ok_or_else(|| {
            let limit = limits::IMAGE_METADATA;
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the names and attributes of all layers need more than {limit} bytes"),
            )
        })?;
        let mut payload = Vec::new();
        file.take(length).read_to_end(&mut payload)?;
        if payload.len() as u64 != length || Digest::of(&payload).bytes() != digest {
            return Err(corrupt("checksum mismatch"));
        }
        let index: Self = postcard::from_bytes(&payload).map_err(|e| corrupt(&e.to_string()))?;
        index.check().ok_or_else(|| corrupt("an entry refers to something that is not there"))?;
        Ok(index)
    }

    /// What the merge relies on: node 0 is the root, parents stand first, links and content stay inside.
    fn check(&self) -> Option<()> {
        let (root, nodes) = self.nodes.split_first()?;
        let inside = |node: &Node| match &node.kind {
            NodeKind::Link(target) => self
                .nodes
                .get(*target as usize)
                .is_some_and(|t| !matches!(t.kind, NodeKind::Link(_) | NodeKind::LinkBelow(_))),
            NodeKind::File(_, content) => content.end_block() <= u64::from(self.data_blocks),
            _ => true,
        };
        let sound = root.kind.is_directory()
            && (1_u32..).zip(nodes).all(|(i, node)| node.parent < i && inside(node));
        sound.then_some(())
    }
}
