//! One layer of an image: a tar stream becomes a data blob (file contents only, each on a block) and an index (everything else).
//! Nothing of the stream is ever unpacked, followed or run on the host.

mod attributes;
mod data;
mod error;
mod index;
mod node;
mod stream;
mod tree;

use std::{fs::File, path::Path};

pub(crate) use attributes::{Facts, attributes, device};
pub(crate) use data::DataWriter;
pub use error::{EntryError, LayerError};
pub(crate) use index::LayerIndex;
pub(crate) use node::{Attributes, Content, HOLE, Map, Node, NodeKind, Xattr};
pub(crate) use stream::Blob;

use crate::{
    limits,
    path::display,
    tar::{Entry, EntryKind, Reader},
};
use stream::Stream;
use tree::{Place, Tree};

/// Name of the data blob in a layer's directory.
pub(crate) const DATA: &str = "data";
/// Name of the index in a layer's directory.
pub(crate) const INDEX: &str = "index";

/// Imports `blob` into the directory `out`: writes [`DATA`] and [`INDEX`] and makes both durable.
pub(crate) fn import(
    blob: Blob,
    out: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), LayerError> {
    let file = File::create_new(out.join(DATA)).map_err(LayerError::Write)?;
    let index = stream::uncompressed(blob, progress, |stream| {
        let mut data = DataWriter::new(file);
        let nodes = read(stream, &mut data)?.finish()?;
        let data_blocks = data.finish().map_err(LayerError::Write)?;
        Ok(LayerIndex { data_blocks, nodes })
    })?;
    index.write(&out.join(INDEX)).map_err(LayerError::Write)
}

fn read(stream: &mut Stream, data: &mut DataWriter) -> Result<Tree, LayerError> {
    let mut tree = Tree::new();
    let mut reader = Reader::new(stream);
    while let Some(mut entry) = reader.next_entry()? {
        let weight =
            entry_node(&mut reader, &mut entry, &mut tree, data).map_err(|error| match error {
                EntryError::Tar(error) => LayerError::Tar(error),
                source => LayerError::Entry { path: display(&entry.path), source },
            })?;
        tree.count(weight)?;
    }
    Ok(tree)
}

/// Puts one entry into the tree and its content into the blob. Returns the bytes of memory that it takes beyond its name.
fn entry_node(
    reader: &mut Reader<&mut Stream>,
    entry: &mut Entry,
    tree: &mut Tree,
    data: &mut DataWriter,
) -> Result<usize, EntryError> {
    let path = std::mem::take(&mut entry.path);
    let placed = tree.place(&path);
    let result = placed.and_then(|place| {
        if place == Place::Settled {
            return Ok(0);
        }
        let (kind, weight) = node_kind(reader, entry, &place, tree, data)?;
        tree.put(&place, kind)?;
        Ok(weight)
    });
    entry.path = path;
    result
}

fn node_kind(
    reader: &mut Reader<&mut Stream>,
    entry: &mut Entry,
    place: &Place<'_>,
    tree: &Tree,
    data: &mut DataWriter,
) -> Result<(NodeKind, usize), EntryError> {
    if entry.kind == EntryKind::HardLink {
        // Owner, mode and attributes are those of the file; a link's own copy of them means nothing.
        return Ok((tree.link(&entry.link)?, entry.link.len()));
    }
    if entry.kind != EntryKind::Directory && !tree.is_free(place) {
        return Err(if *place == Place::Root {
            EntryError::RootNotDirectory
        } else {
            EntryError::Duplicate
        });
    }
    let attributes = attributes(Facts {
        kind: entry.kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: std::mem::take(&mut entry.xattrs),
    })?;
    let mut weight = attributes.weight();
    let kind = match entry.kind {
        EntryKind::Directory => NodeKind::Directory(attributes),
        EntryKind::Fifo => NodeKind::Fifo(attributes),
        EntryKind::CharDevice => {
            NodeKind::Device { attributes, block: false, rdev: device(entry.device)? }
        }
        EntryKind::BlockDevice => {
            NodeKind::Device { attributes, block: true, rdev: device(entry.device)? }
        }
        EntryKind::Symlink => {
            let target = std::mem::take(&mut entry.link);
            if target.is_empty() || target.len() > limits::PATH || target.contains(&0) {
                return Err(EntryError::SymlinkTarget);
            }
            weight += target.len();
            NodeKind::Symlink(attributes, target.into())
        }
        EntryKind::Regular | EntryKind::HardLink => {
            let mut file = data.file(entry.size)?;
            reader.content(entry, &mut file)?;
            let content = file.finish();
            if let Map::Chunks { blocks, .. } = &content.map {
                weight += 4 * blocks.len();
            }
            NodeKind::File(attributes, content)
        }
    };
    Ok((kind, weight))
}
