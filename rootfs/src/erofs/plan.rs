//! Where everything of an image's metadata blob goes. Directories come first, parents before children, each with its names behind its
//! inode where they fit, so that looking up a path reads few blocks; then the other inodes, directory by directory; then what needs whole blocks.

use std::collections::HashMap;

use super::{
    devices, directory,
    disk::{BLOCK, Inode, Layout, SLOT, xattr_bytes},
};
use crate::{
    layer::Map,
    merge::{Body, File, FileId, Image, ROOT},
};

/// Longest content stored behind its inode; longer ends get a block of their own. The content must not cross a block's end, so this bounds
/// the gaps.
const INLINE: u64 = 2048;

/// The plan.
pub(super) struct Plan {
    /// The files that names lead to, in the order of their inodes.
    pub(super) order: Vec<FileId>,
    /// By file number; [`Spot::NONE`] for a file without a name.
    spots: Vec<Spot>,
    /// The time that compact inodes have: the most common one.
    pub(super) time: (i64, u32),
    pub(super) has_chunks: bool,
    /// Length of the metadata blob.
    pub(super) blocks: u64,
}

/// Where one file is.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    /// Byte offset of the inode.
    pub(super) inode: u64,
    pub(super) links: u32,
    /// First block of a directory's or symbolic link's own blocks.
    pub(super) block: u64,
}

impl Spot {
    const NONE: Self = Self { inode: 0, links: 0, block: 0 };

    pub(super) fn number(&self) -> u64 {
        self.inode / SLOT
    }
}

/// How a file's content is stored.
pub(super) struct Shape {
    pub(super) layout: Layout,
    pub(super) size: u64,
    /// Bytes behind the inode and its attributes.
    pub(super) behind: u64,
    /// Blocks of its own in the metadata blob.
    pub(super) own_blocks: u64,
}

impl Shape {
    pub(super) fn of(file: &File<'_>) -> Self {
        let in_metadata = |size: u64| {
            let tail = size % BLOCK as u64;
            let inline = (1..=INLINE).contains(&tail);
            Self {
                layout: if inline { Layout::FlatInline } else { Layout::FlatPlain },
                size,
                behind: if inline { tail } else { 0 },
                own_blocks: if inline { size / BLOCK as u64 } else { size.div_ceil(BLOCK as u64) },
            }
        };
        match &file.body {
            // The numbers of the dots do not matter for the size.
            Body::Directory { names, .. } => {
                in_metadata(directory::size(directory::entries(names, ROOT, ROOT)))
            }
            Body::Symlink(target) => in_metadata(target.len() as u64),
            Body::Regular(content) => match &content.map {
                Map::Flat(_) => {
                    Self { layout: Layout::FlatPlain, size: content.size, behind: 0, own_blocks: 0 }
                }
                Map::Chunks { blocks, .. } => Self {
                    layout: Layout::ChunkBased,
                    size: content.size,
                    behind: 4 * blocks.len() as u64,
                    own_blocks: 0,
                },
            },
            Body::Device { .. } | Body::Fifo => {
                Self { layout: Layout::FlatPlain, size: 0, behind: 0, own_blocks: 0 }
            }
        }
    }

    /// The inode, with everything but its number and what the union holds.
    pub(super) fn inode(&self, file: &File<'_>, links: u32) -> Inode {
        let attributes = file.attributes;
        Inode {
            layout: self.layout,
            mode: mode(file),
            links,
            size: self.size,
            union: 0,
            number: 0,
            uid: attributes.uid,
            gid: attributes.gid,
            time: (attributes.mtime, attributes.mtime_ns),
            xattr_bytes: xattr_bytes(&attributes.xattrs),
        }
    }
}

/// Type and permissions. Linux has no permissions on symbolic links, whatever an archive says.
fn mode(file: &File<'_>) -> u16 {
    let permissions = file.attributes.mode;
    match &file.body {
        Body::Directory { .. } => 0o040_000 | permissions,
        Body::Regular(_) => 0o100_000 | permissions,
        Body::Symlink(_) => 0o120_777,
        Body::Device { block: false, .. } => 0o020_000 | permissions,
        Body::Device { block: true, .. } => 0o060_000 | permissions,
        Body::Fifo => 0o010_000 | permissions,
    }
}

impl Plan {
    /// `blobs`: how many data blobs follow, each of which has a slot in the device table.
    pub(super) fn new(image: &Image<'_>, blobs: usize) -> Self {
        let mut spots = vec![Spot::NONE; image.files.len()];
        let order = order(image, &mut spots);
        let time = common_time(image, &order);
        let mut at = devices::end(blobs);
        let mut own_blocks = 0;
        let mut has_chunks = false;
        for id in &order {
            let (Some(file), Some(spot)) = (image.file(*id), spots.get_mut(*id as usize)) else {
                continue;
            };
            let shape = Shape::of(file);
            let inode = shape.inode(file, spot.links);
            let head =
                (if inode.is_compact(time) { SLOT } else { 2 * SLOT }) + inode.xattr_bytes as u64;
            spot.inode = at.next_multiple_of(SLOT);
            if shape.layout == Layout::FlatInline
                && (spot.inode + head) % BLOCK as u64 + shape.behind > BLOCK as u64
            {
                // The content starts with the next block, or just behind its start.
                let boundary = (spot.inode + head).next_multiple_of(BLOCK as u64);
                spot.inode = (boundary - head).next_multiple_of(SLOT);
            }
            at = spot.inode + head + shape.behind;
            // Relative for now.
            spot.block = own_blocks;
            own_blocks += shape.own_blocks;
            has_chunks |= shape.layout == Layout::ChunkBased;
        }
        let first_own = at.div_ceil(BLOCK as u64);
        for id in &order {
            if let Some(spot) = spots.get_mut(*id as usize) {
                spot.block += first_own;
            }
        }
        Self { order, spots, time, has_chunks, blocks: first_own + own_blocks }
    }

    pub(super) fn spot(&self, id: FileId) -> Spot {
        self.spots.get(id as usize).copied().unwrap_or(Spot::NONE)
    }
}

/// Walks the tree, breadth first, and counts links.
fn order(image: &Image<'_>, spots: &mut [Spot]) -> Vec<FileId> {
    let mut directories = vec![ROOT];
    let mut others = Vec::new();
    let mut next = 0;
    while let Some(id) = directories.get(next).copied() {
        next += 1;
        let Some(Body::Directory { names, .. }) = image.file(id).map(|file| &file.body) else {
            continue;
        };
        let mut links = 2;
        for child in names.values() {
            match image.file(*child).map(|file| &file.body) {
                Some(Body::Directory { .. }) => {
                    links += 1;
                    directories.push(*child);
                }
                _ => {
                    if let Some(spot) = spots.get_mut(*child as usize) {
                        if spot.links == 0 {
                            others.push(*child);
                        }
                        spot.links += 1;
                    }
                }
            }
        }
        if let Some(spot) = spots.get_mut(id as usize) {
            spot.links = links;
        }
    }
    directories.append(&mut others);
    directories
}

/// The most common time; of equally common ones the earliest.
fn common_time(image: &Image<'_>, order: &[FileId]) -> (i64, u32) {
    let mut counts: HashMap<(i64, u32), u32> = HashMap::new();
    for file in order.iter().filter_map(|id| image.file(*id)) {
        *counts.entry((file.attributes.mtime, file.attributes.mtime_ns)).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)))
        .map_or((0, 0), |(time, _)| time)
}
