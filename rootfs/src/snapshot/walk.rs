//! A directory of the host as a layer: its files' contents go into a data blob, everything else into an index, as with a tar stream.
//!
//! Nothing outside of the directory is reached, whatever is in it: every file is opened by its path beneath the directory, without following
//! symbolic links and without entering mounts. Depth costs no descriptors. What changes while it is read is an error.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{FileType, OFlags, SeekFrom, Statx, StatxAttributes, seek},
    io::Errno,
};

use super::{
    Marks, WalkError,
    image::Image,
    marks::{Of, Reader, is_whiteout},
    open::{self, Listing},
};
use crate::{
    EntryError, LayerError,
    layer::{
        Attributes, Content, DataWriter, Facts, LayerIndex, Map, Node, NodeKind, attributes, device,
    },
    limits,
    path::{PathError, display},
    tar::{EntryKind, Sink},
};

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// Where the contents of files are, or go.
pub(super) enum Contents<'c> {
    /// They are written there.
    Copied(DataWriter, Vec<u8>),
    /// They are in the file that is mounted on the directory.
    Placed(&'c Image),
}

impl Contents<'_> {
    /// They are written to `data`.
    pub(super) fn copied(data: File) -> Self {
        Self::Copied(DataWriter::new(data), vec![0; BUFFER])
    }
}

/// Reads everything in `root`.
pub(super) fn layer(
    root: &OwnedFd,
    marks: Marks,
    contents: Contents<'_>,
) -> Result<LayerIndex, WalkError> {
    let look = open::look(root, c"").map_err(|errno| WalkError::read(".".into(), errno))?;
    let mut walk = Walk {
        root,
        device: (look.stx_dev_major, look.stx_dev_minor),
        nodes: Vec::new(),
        files: HashMap::new(),
        todo: Vec::new(),
        metadata: 0,
        contents,
        xattrs: Reader::new(marks),
    };
    walk.add(0, CString::default(), NodeKind::Implied)?;
    walk.todo.push((0, look));
    while let Some((node, look)) = walk.todo.pop() {
        walk.directory(node, &look)?;
    }
    let data_blocks = match walk.contents {
        Contents::Copied(data, _) => data.finish().map_err(LayerError::Write)?,
        Contents::Placed(image) => image.blocks,
    };
    Ok(LayerIndex { data_blocks, nodes: walk.nodes })
}

struct Walk<'w> {
    root: &'w OwnedFd,
    device: (u32, u32),
    nodes: Vec<Node>,
    /// Files that have more names, by their inode.
    files: HashMap<u64, u32>,
    /// Directories that are not read yet.
    todo: Vec<(u32, Statx)>,
    metadata: usize,
    contents: Contents<'w>,
    xattrs: Reader,
}

/// What a name is, and bytes of memory that it takes beyond its name.
type Found = (NodeKind, usize);

impl Walk<'_> {
    fn directory(&mut self, node: u32, seen: &Statx) -> Result<(), WalkError> {
        let path = self.path(node);
        let entry = || shown(&path);
        let failed = |errno| WalkError::read(entry(), errno);
        let path = if path.is_empty() { b".".to_vec() } else { path.clone() };
        let directory = open::inside(self.root, &path, OFlags::DIRECTORY).map_err(failed)?;
        self.unchanged(directory.as_fd(), seen, &entry)?;
        let xattrs = self.xattrs.read(Of::Open(directory.as_fd()), &entry)?;
        let opaque = xattrs.opaque;
        let attributes = judge(seen, EntryKind::Directory, xattrs.rest)
            .map_err(|source| refused(entry(), source))?;
        self.count(attributes.weight())?;
        if let Some(node) = self.nodes.get_mut(node as usize) {
            (node.opaque, node.kind) = (opaque, NodeKind::Directory(attributes));
        }
        let room = limits::LAYER_ENTRIES.saturating_sub(self.nodes.len());
        let names = match open::list(&directory, room).map_err(failed)? {
            Listing::Names(names) => names,
            Listing::TooMany => {
                return Err(LayerError::TooManyEntries(limits::LAYER_ENTRIES).into());
            }
            Listing::TooLong => {
                return Err(LayerError::TooMuchMetadata(limits::LAYER_METADATA).into());
            }
        };
        let mut below = Vec::new();
        for name in names {
            self.name(node, directory.as_fd(), name, &mut below)?;
        }
        self.unchanged(directory.as_fd(), seen, &entry)?;
        // The first is the next to be read.
        self.todo.extend(below.into_iter().rev());
        Ok(())
    }

    /// Takes in one name of a directory; what is a directory itself is left for later.
    fn name(
        &mut self,
        parent: u32,
        directory: BorrowedFd<'_>,
        name: CString,
        below: &mut Vec<(u32, Statx)>,
    ) -> Result<(), WalkError> {
        let path = [self.path(parent), name.to_bytes().to_vec()].join(&b'/');
        let entry = || shown(&path);
        if path.len() > limits::PATH {
            return Err(refused(entry(), EntryError::Path(PathError::Long)));
        }
        let look = match open::look(directory, &name) {
            Err(Errno::NOENT) => return Err(WalkError::Changed(entry())),
            look => look.map_err(|errno| WalkError::read(entry(), errno))?,
        };
        if (look.stx_dev_major, look.stx_dev_minor) != self.device
            || look.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        {
            return Err(WalkError::Foreign(entry()));
        }
        let kind = FileType::from_raw_mode(look.stx_mode.into());
        if is_whiteout(&look) {
            let node = self.add(parent, name, NodeKind::Absent)?;
            if let Some(node) = self.nodes.get_mut(node as usize) {
                node.whiteout = true;
            }
            return Ok(());
        }
        if kind == FileType::Directory {
            let node = self.add(parent, name, NodeKind::Implied)?;
            below.push((node, look));
            return Ok(());
        }
        if let Some(known) = self.files.get(&look.stx_ino) {
            let known = *known;
            self.add(parent, name, NodeKind::Link(known))?;
            return Ok(());
        }
        let found = match kind {
            FileType::RegularFile => self.file(directory, &name, &look, &entry)?,
            // A socket without who listens is nothing.
            FileType::Socket => return Ok(()),
            _ => self.other(directory, &name, &look, &entry)?,
        };
        self.count(found.1)?;
        let node = self.add(parent, name, found.0)?;
        if look.stx_nlink > 1 {
            self.files.insert(look.stx_ino, node);
        }
        Ok(())
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CString,
        look: &Statx,
        entry: &dyn Fn() -> String,
    ) -> Result<Found, WalkError> {
        let failed = |errno| WalkError::read(entry(), errno);
        let file =
            open::inside(directory, name.to_bytes(), OFlags::empty()).map_err(
                |errno| match errno {
                    Errno::NOENT | Errno::LOOP => WalkError::Changed(entry()),
                    errno => failed(errno),
                },
            )?;
        self.unchanged(file.as_fd(), look, entry)?;
        let xattrs = self.xattrs.read(Of::Open(file.as_fd()), entry)?;
        let attributes = judge(look, EntryKind::Regular, xattrs.rest)
            .map_err(|source| refused(entry(), source))?;
        let file = File::from(file);
        let content = self.content(&file, look, entry)?;
        self.unchanged(file.as_fd(), look, entry)?;
        let map = match &content.map {
            Map::Chunks { blocks, .. } => 4 * blocks.len(),
            Map::Flat(_) => 0,
        };
        let weight = attributes.weight() + map;
        Ok((NodeKind::File(attributes, content), weight))
    }

    fn content(
        &mut self,
        file: &File,
        look: &Statx,
        entry: &dyn Fn() -> String,
    ) -> Result<Content, WalkError> {
        let size = look.stx_size;
        let wrong = |source| refused(entry(), source);
        let (data, buffer) = match &mut self.contents {
            Contents::Copied(data, buffer) => (data, buffer),
            Contents::Placed(_) if size == 0 => return Ok(Content { size, map: Map::Flat(0) }),
            Contents::Placed(image) => {
                let first = image.place(file.as_fd(), size);
                let first = first.ok_or_else(|| WalkError::Scattered(entry()))?;
                return Ok(Content { size, map: Map::Flat(first) });
            }
        };
        let mut to = data.file(size).map_err(wrong)?;
        // A full file is not asked where its holes are.
        let sparse = look.stx_blocks.saturating_mul(512) < size;
        let mut at = 0;
        while at < size {
            let mut end = size;
            if sparse {
                let ask = |from| seek(file, from);
                at = match ask(SeekFrom::Data(at)) {
                    Err(Errno::NXIO) => break,
                    start => start.map_err(|errno| WalkError::read(entry(), errno))?.min(size),
                };
                end = ask(SeekFrom::Hole(at))
                    .map_err(|errno| WalkError::read(entry(), errno))?
                    .min(size);
                to.hole_until(at).map_err(wrong)?;
            }
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let room = buffer.get_mut(..most).unwrap_or_default();
                let count = match file.read_at(room, at) {
                    Ok(0) => return Err(WalkError::Changed(entry())),
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(source) => return Err(WalkError::Read { entry: entry(), source }),
                };
                to.data(room.get(..count).unwrap_or_default()).map_err(wrong)?;
                at += count as u64;
            }
        }
        to.hole_until(size).map_err(wrong)?;
        Ok(to.finish())
    }

    /// A symbolic link, a device, a pipe.
    fn other(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CString,
        look: &Statx,
        entry: &dyn Fn() -> String,
    ) -> Result<Found, WalkError> {
        let wrong = |source| refused(entry(), source);
        let xattrs = self.xattrs.read(Of::Named(directory, name), entry)?.rest;
        let numbers = (u64::from(look.stx_rdev_major), u64::from(look.stx_rdev_minor));
        let judged = |kind| judge(look, kind, xattrs).map_err(wrong);
        let kind = match FileType::from_raw_mode(look.stx_mode.into()) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())
                    .map_err(|errno| WalkError::read(entry(), errno))?;
                NodeKind::Symlink(judged(EntryKind::Symlink)?, target.into_bytes().into())
            }
            FileType::Fifo => NodeKind::Fifo(judged(EntryKind::Fifo)?),
            device_kind => {
                let block = device_kind == FileType::BlockDevice;
                let kind = if block { EntryKind::BlockDevice } else { EntryKind::CharDevice };
                let rdev = device(numbers).map_err(wrong)?;
                NodeKind::Device { attributes: judged(kind)?, block, rdev }
            }
        };
        let after = open::look(directory, name).map_err(|_| WalkError::Changed(entry()))?;
        if !open::is_same(look, &after) {
            return Err(WalkError::Changed(entry()));
        }
        let weight = match &kind {
            NodeKind::Symlink(attributes, target) => attributes.weight() + target.len(),
            NodeKind::Fifo(attributes) | NodeKind::Device { attributes, .. } => attributes.weight(),
            _ => 0,
        };
        Ok((kind, weight))
    }

    fn unchanged(
        &self,
        file: BorrowedFd<'_>,
        seen: &Statx,
        entry: &dyn Fn() -> String,
    ) -> Result<(), WalkError> {
        match open::look(file, c"") {
            Ok(now) if open::is_same(seen, &now) => Ok(()),
            Ok(_) => Err(WalkError::Changed(entry())),
            Err(errno) => Err(WalkError::read(entry(), errno)),
        }
    }

    fn add(&mut self, parent: u32, name: CString, kind: NodeKind) -> Result<u32, WalkError> {
        let node = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let name: Box<[u8]> = name.into_bytes().into();
        self.count(name.len())?;
        self.nodes.push(Node { parent, name, whiteout: false, opaque: false, kind });
        Ok(node)
    }

    /// Holds the layer to its bounds.
    fn count(&mut self, bytes: usize) -> Result<(), WalkError> {
        self.metadata = self.metadata.saturating_add(bytes);
        if self.metadata > limits::LAYER_METADATA {
            return Err(LayerError::TooMuchMetadata(limits::LAYER_METADATA).into());
        }
        if self.nodes.len() > limits::LAYER_ENTRIES {
            return Err(LayerError::TooManyEntries(limits::LAYER_ENTRIES).into());
        }
        Ok(())
    }

    /// The path of a node; empty for the root.
    fn path(&self, mut node: u32) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        while let Some(known) = self.nodes.get(node as usize).filter(|_| node != 0) {
            names.push(&known.name);
            node = known.parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

fn judge(
    look: &Statx,
    kind: EntryKind,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<Attributes, EntryError> {
    attributes(Facts {
        kind,
        mode: look.stx_mode.into(),
        uid: look.stx_uid.into(),
        gid: look.stx_gid.into(),
        mtime: (look.stx_mtime.tv_sec, look.stx_mtime.tv_nsec),
        xattrs,
    })
}

fn shown(path: &[u8]) -> String {
    display(path.strip_prefix(b"/").unwrap_or(path))
}

fn refused(path: String, source: EntryError) -> WalkError {
    WalkError::Layer(LayerError::Entry { path, source })
}
