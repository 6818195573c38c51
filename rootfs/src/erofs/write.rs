//! Writes an image's metadata blob according to its plan.

use std::{
    fs,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use super::{
    devices, directory,
    disk::{BLOCK, Layout, Super, write_xattrs},
    plan::{Plan, Shape},
};
use crate::{
    Digest,
    layer::{HOLE, Map},
    merge::{Body, File, FileId, Image, ROOT},
};

/// Why a metadata blob could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk would have more blocks than EROFS can count.
    #[error("the image needs {0} blocks of 4096 bytes; at most 4294967294 are allowed")]
    TooLarge(u64),
    /// The store could not be written.
    #[error("the store cannot be written")]
    Write(#[source] io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// The data blobs that follow the metadata blob on the disk.
pub(crate) struct Layers<'l> {
    /// For each layer, which blob is its own. A layer without content may name any.
    pub(crate) blob_of_layer: &'l [usize],
    /// Length of each blob in blocks.
    pub(crate) blob_blocks: &'l [u32],
    /// What the volume's UUID is made from.
    pub(crate) identity: Digest,
}

/// Writes the metadata blob of `image` to `path` and makes it durable. Returns the length of the whole disk in blocks.
pub(crate) fn write(
    image: &Image<'_>,
    layers: &Layers<'_>,
    path: &Path,
) -> Result<u32, WriteError> {
    let plan = Plan::new(image, layers.blob_blocks.len());
    let mut starts = Vec::with_capacity(layers.blob_blocks.len());
    let mut end = plan.blocks;
    for blocks in layers.blob_blocks {
        starts.push(end);
        end += u64::from(*blocks);
    }
    let blocks = u32::try_from(end)
        .ok()
        .filter(|blocks| *blocks != HOLE)
        .ok_or(WriteError::TooLarge(end))?;
    let start_of = |layer: usize| {
        layers.blob_of_layer.get(layer).and_then(|blob| starts.get(*blob)).copied().unwrap_or(0)
    };

    let file = fs::File::options().read(true).write(true).create_new(true).open(path)?;
    let mut out = Out { file: BufWriter::with_capacity(1 << 20, &file), position: 0 };
    let writer = Writer { image, plan: &plan, start_of: &start_of };
    let mut buffer = Vec::new();
    devices::write_table(&starts, layers.blob_blocks, &mut buffer);
    out.at(devices::TABLE, &buffer)?;
    for (number, id) in (1_u32..).zip(&plan.order) {
        let Some(file) = image.file(*id) else { continue };
        buffer.clear();
        writer.inode(*id, file, number, &mut buffer);
        out.at(plan.spot(*id).inode, &buffer)?;
    }
    for id in &plan.order {
        let Some(file) = image.file(*id) else { continue };
        let shape = Shape::of(file);
        if shape.own_blocks > 0 {
            buffer.clear();
            writer.content(*id, file, &mut buffer);
            buffer.truncate(
                usize::try_from(shape.own_blocks).unwrap_or(usize::MAX).saturating_mul(BLOCK),
            );
            out.at(plan.spot(*id).block * BLOCK as u64, &buffer)?;
        }
    }
    out.at(plan.blocks * BLOCK as u64, &[])?;
    out.file.flush()?;
    drop(out);

    let mut first = [0; BLOCK];
    file.read_exact_at(&mut first, 0)?;
    let [uuid, _] = *layers.identity.bytes().as_chunks::<16>().0 else {
        return Err(io::Error::other("a digest has 32 bytes").into());
    };
    Super {
        // The root is the first inode, so its number is small.
        root_slot: u16::try_from(plan.spot(ROOT).number()).map_err(io::Error::other)?,
        inodes: plan.order.len() as u64,
        time: plan.time,
        blocks,
        uuid: name_based(uuid),
        has_chunks: plan.has_chunks,
    }
    .write(&mut first);
    file.write_all_at(&first, 0)?;
    file.sync_all()?;
    Ok(blocks)
}

/// Marks a UUID as version 8, "custom" (RFC 9562, 5.8).
fn name_based(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

struct Writer<'w, 'a> {
    image: &'w Image<'a>,
    plan: &'w Plan,
    start_of: &'w dyn Fn(usize) -> u64,
}

impl Writer<'_, '_> {
    /// The inode with all that stands behind it.
    fn inode(&self, id: FileId, file: &File<'_>, number: u32, out: &mut Vec<u8>) {
        let spot = self.plan.spot(id);
        let shape = Shape::of(file);
        let mut inode = shape.inode(file, spot.links);
        inode.number = number;
        inode.union = match &file.body {
            Body::Regular(content) => match &content.map {
                Map::Flat(_) if content.size == 0 => 0,
                Map::Flat(first) => self.address(file.layer, *first),
                Map::Chunks { bits, .. } => u32::from(*bits),
            },
            Body::Directory { .. } | Body::Symlink(_) if shape.own_blocks > 0 => {
                block_number(spot.block)
            }
            Body::Directory { .. } | Body::Symlink(_) | Body::Fifo => 0,
            Body::Device { rdev, .. } => *rdev,
        };
        inode.write(inode.is_compact(self.plan.time), out);
        write_xattrs(&file.attributes.xattrs, out);
        match &file.body {
            Body::Regular(content) => {
                if let Map::Chunks { blocks, .. } = &content.map {
                    for block in blocks {
                        let address =
                            if *block == HOLE { HOLE } else { self.address(file.layer, *block) };
                        out.extend_from_slice(&address.to_le_bytes());
                    }
                }
            }
            _ if shape.layout == Layout::FlatInline => {
                let mut content = Vec::new();
                self.content(id, file, &mut content);
                let tail =
                    usize::try_from(shape.own_blocks).unwrap_or(usize::MAX).saturating_mul(BLOCK);
                out.extend_from_slice(content.get(tail..).unwrap_or_default());
            }
            _ => {}
        }
    }

    /// The whole content of a directory or symbolic link.
    fn content(&self, id: FileId, file: &File<'_>, out: &mut Vec<u8>) {
        match &file.body {
            Body::Symlink(target) => out.extend_from_slice(target),
            Body::Directory { names, parent } => {
                let describe =
                    |id| (self.plan.spot(id).number(), self.image.file(id).map_or(0, file_type));
                directory::write(directory::entries(names, id, *parent), describe, out);
            }
            _ => {}
        }
    }

    /// A block of a layer's data blob as a block of the disk. All of them are below the disk's length, which was checked.
    fn address(&self, layer: usize, block: u32) -> u32 {
        block_number((self.start_of)(layer) + u64::from(block))
    }
}

fn block_number(block: u64) -> u32 {
    u32::try_from(block).unwrap_or(HOLE)
}

/// `EROFS_FT_*`, the same as the kernel's `FT_*`.
fn file_type(file: &File<'_>) -> u8 {
    match &file.body {
        Body::Regular(_) => 1,
        Body::Directory { .. } => 2,
        Body::Device { block: false, .. } => 3,
        Body::Device { block: true, .. } => 4,
        Body::Fifo => 5,
        Body::Symlink(_) => 7,
    }
}

/// A file written in order, with zeros in the gaps.
struct Out<'f> {
    file: BufWriter<&'f fs::File>,
    position: u64,
}

impl Out<'_> {
    fn at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let gap = position
            .checked_sub(self.position)
            .ok_or_else(|| io::Error::other("the plan overlaps"))?;
        io::copy(&mut io::Read::take(io::repeat(0), gap), &mut self.file)?;
        self.file.write_all(bytes)?;
        self.position = position + bytes.len() as u64;
        Ok(())
    }
}
