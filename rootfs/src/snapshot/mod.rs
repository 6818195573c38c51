//! Disks of directories that are on the host already: the lower directories of an overlay, as containerd's snapshotter gives them.
//!
//! Each directory is read once and becomes a layer of the store, a data blob and an index, exactly as if it had come as a tar stream; the layers of
//! an overlay become one disk. Overlayfs's whiteouts and opaque directories hide here what they hide there. Layers are shared by all
//! overlays that have the directory, disks by all that have the same directories.
//!
//! A directory on which an EROFS file is mounted gives a layer without data of its own: the file is its data blob, and stays where it is.
//!
//! # What is found again
//! A layer is named by the [stamp](stamp) of its directory, a disk by its layers' names. Making one holds locks, as an import does: of many processes one
//! reads, the others wait. A process that is killed leaves nothing that counts.
//!
//! # What goes
//! A layer goes when its directory is gone or has another stamp, a disk when one of its layers does. That is looked at whenever the store is swept,
//! and whenever a disk was made. So there is never more than the host has snapshots.
//!
//! # What is dropped
//! Attributes of overlayfs itself and `trusted.*`, as in images, and sockets. Marks that only the host's kernel can follow (redirected directories, files without
//! their content) refuse the directory.

mod error;
mod image;
mod marks;
mod open;
mod stamp;
mod upper;
mod walk;

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use image::Image;
use walk::Contents;

pub use error::{SnapshotError, WalkError};
pub use marks::Marks;
pub use upper::Upper;

use crate::{
    Digest, LayerError, Store, StoreError,
    layer::{DATA, INDEX, LayerIndex},
    limits,
    store::{ComposeError, Layers, compose, entries, sync_directory, write_durable},
};

const METADATA: &str = "metadata";
const ROOT: &str = "root.json";
const SOURCE: &str = "source.json";

/// Of which directory, or of which mounted file, a layer is.
#[derive(Debug, Serialize, Deserialize)]
struct Source {
    path: PathBuf,
    marks: Marks,
}

/// What a disk consists of.
#[derive(Debug, Serialize, Deserialize)]
struct Root {
    /// Names of the layers, lowest first.
    layers: Vec<Digest>,
    /// Those whose data blobs follow the metadata blob.
    blobs: Vec<Digest>,
}

/// An open directory and what it is called in the store.
struct Directory<'d> {
    path: &'d Path,
    file: OwnedFd,
    /// The file that is mounted on it.
    image: Option<Image>,
    stamp: Digest,
}

/// Whether [`disk`] can be asked for this directory: it is there, and its file system says when files were made, or that of the EROFS file that is mounted on it.
#[must_use]
pub fn is_known(path: &Path) -> bool {
    let Ok(directory) = open::root(path) else { return false };
    let look = match Image::mounted(&directory) {
        Some(image) => open::look(&image.file, c""),
        None => open::look(&directory, c""),
    };
    look.is_ok_and(|look| stamp::tells_birth(&look))
}

/// The files whose concatenation, in this order, is a disk with what an overlay of the directories `lower` shows, the uppermost first as in
/// its option `lowerdir`: an EROFS volume, to be mounted read-only. Made if the store does not have it, which takes as long as reading the
/// directories. The files are read-only and shared: never write to them.
///
/// # Errors
/// [`SnapshotError`]; nothing is left behind then.
pub fn disk(store: &Store, lower: &[PathBuf], marks: Marks) -> Result<Vec<PathBuf>, SnapshotError> {
    if !(1..=limits::LAYERS).contains(&lower.len()) {
        return Err(SnapshotError::Count(lower.len()));
    }
    let mut directories = Vec::with_capacity(lower.len());
    for path in lower.iter().rev() {
        directories.push(Directory::open(path, marks)?);
    }
    let stamps: Vec<Digest> = directories.iter().map(|directory| directory.stamp).collect();
    let id = identity(&stamps);
    if let Some(files) = find(store, id) {
        return Ok(files);
    }
    let made = make(store, &directories, marks, &stamps, id);
    // What killed processes left, what the snapshotter removed. An error here would hide the one that matters.
    let _ = store.try_sweep();
    made
}

fn make(
    store: &Store,
    directories: &[Directory<'_>],
    marks: Marks,
    stamps: &[Digest],
    id: Digest,
) -> Result<Vec<PathBuf>, SnapshotError> {
    let _shared = store.lock_shared()?;
    let _making = store.lock_making(&id.hex())?;
    if let Some(files) = find(store, id) {
        return Ok(files);
    }
    for directory in directories {
        directory.import(store, marks)?;
    }
    let work = store.temporary()?;
    let layers = Layers {
        keys: stamps,
        index: &|stamp| store.snapshot_path(stamp).join(INDEX),
        identity: id,
    };
    let composed = compose(&layers, &work.path().join(METADATA)).map_err(|error| match error {
        ComposeError::Merge { number, source } => {
            let path = directories.get(number).map_or(Path::new(""), |known| known.path);
            SnapshotError::Merge { path: path.into(), source }
        }
        ComposeError::Write(error) => error.into(),
        ComposeError::Store(error) => error.into(),
    })?;
    let path = store.root_path(id);
    let root = Root { layers: stamps.to_vec(), blobs: composed.blobs };
    let publish = || {
        write_durable(&work.path().join(ROOT), &serde_json::to_vec(&root)?)?;
        publish(work.path(), &path)
    };
    publish().map_err(StoreError::io("write", &path))?;
    find(store, id).ok_or_else(|| {
        let reason = "it went while it was made".into();
        SnapshotError::Store(StoreError::Damaged { path, reason })
    })
}

impl<'d> Directory<'d> {
    fn open(path: &'d Path, marks: Marks) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Directory { path: path.into(), source };
        let file = open::root(path).map_err(|errno| failed(WalkError::read(".".into(), errno)))?;
        let image = Image::mounted(&file);
        let stamp = stamp_of(&file, image.as_ref(), marks).map_err(failed)?;
        Ok(Self { path, file, image, stamp })
    }

    /// Reads it; its data blob is made in `work`.
    fn read(&self, marks: Marks, work: &Path) -> Result<LayerIndex, WalkError> {
        let data = work.join(DATA);
        if let Some(image) = &self.image {
            match walk::layer(&self.file, marks, Contents::Placed(image)) {
                Err(WalkError::Scattered(_)) => {}
                index => {
                    let index = index?;
                    symlink(&image.path, data).map_err(LayerError::Write)?;
                    return Ok(index);
                }
            }
        }
        let data = fs::File::create_new(data).map_err(LayerError::Write)?;
        walk::layer(&self.file, marks, Contents::copied(data))
    }

    /// Makes a layer of it, unless the store has it.
    fn import(&self, store: &Store, marks: Marks) -> Result<(), SnapshotError> {
        let path = store.snapshot_path(self.stamp);
        if path.exists() {
            return Ok(());
        }
        let _making = store.lock_making(&self.stamp.hex())?;
        if path.exists() {
            return Ok(());
        }
        let failed = |source| SnapshotError::Directory { path: self.path.into(), source };
        let work = store.temporary()?;
        let index = self.read(marks, work.path()).map_err(failed)?;
        // Whatever was changed before it was read, or behind the reader's back, is of another directory.
        if stamp_of(&self.file, self.image.as_ref(), marks).map_err(failed)? != self.stamp {
            return Err(failed(WalkError::Changed(".".into())));
        }
        let path_of = self.image.as_ref().map_or(self.path, |image| &image.path);
        let source = Source { path: path_of.into(), marks };
        let publish = || {
            index.write(&work.path().join(INDEX))?;
            write_durable(&work.path().join(SOURCE), &serde_json::to_vec(&source)?)?;
            publish(work.path(), &path)
        };
        publish().map_err(StoreError::io("write", &path)).map_err(Into::into)
    }
}

fn stamp_of(file: &OwnedFd, image: Option<&Image>, marks: Marks) -> Result<Digest, WalkError> {
    image.map_or_else(|| stamp::of(file, marks), |image| stamp::of_image(image, marks))
}

/// Moves what is finished into its place by one rename.
fn publish(work: &Path, path: &Path) -> io::Result<()> {
    sync_directory(work)?;
    fs::rename(work, path)?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// The disk of this name, if the store has all of it.
fn find(store: &Store, id: Digest) -> Option<Vec<PathBuf>> {
    let path = store.root_path(id);
    let root: Root = serde_json::from_slice(&fs::read(path.join(ROOT)).ok()?).ok()?;
    let blobs = root.blobs.iter().map(|blob| store.snapshot_path(*blob).join(DATA));
    let files: Vec<PathBuf> = std::iter::once(path.join(METADATA)).chain(blobs).collect();
    files.iter().all(|file| file.exists()).then_some(files)
}

fn identity(stamps: &[Digest]) -> Digest {
    let mut text = String::from("bulkhead root 1\n");
    for stamp in stamps {
        text.push_str(&stamp.hex());
        text.push('\n');
    }
    Digest::of(text.as_bytes())
}

impl Store {
    /// Removes layers whose directories are no longer what they were, and disks without all their layers. Needs the exclusive lock.
    pub(crate) fn sweep_snapshots(&self) -> Result<(), StoreError> {
        for (directory, keeps) in
            [("snapshots", has_source as fn(&Self, &Path) -> bool), ("roots", has_layers)]
        {
            let directory = self.path().join(directory);
            for name in entries(&directory)? {
                let path = directory.join(name);
                if !keeps(self, &path) {
                    fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }
}

/// In doubt it has: a layer that goes too late costs room, one that goes too early a start.
fn has_source(_store: &Store, layer: &Path) -> bool {
    let read = || serde_json::from_slice(&fs::read(layer.join(SOURCE)).ok()?).ok();
    let Some(Source { path, marks }) = read() else { return false };
    let stamp = match open::root(&path) {
        Ok(directory) => stamp::of(&directory, marks),
        Err(Errno::NOTDIR) => match Image::open(&path) {
            Ok(image) => stamp::of_image(&image, marks),
            Err(_) => return false,
        },
        Err(Errno::NOENT | Errno::LOOP) => return false,
        Err(_) => return true,
    };
    stamp.map_or(true, |stamp| layer.file_name().is_some_and(|name| name == stamp.hex().as_str()))
}

fn has_layers(store: &Store, root: &Path) -> bool {
    let read = || -> Option<bool> {
        let root: Root = serde_json::from_slice(&fs::read(root.join(ROOT)).ok()?).ok()?;
        Some(root.layers.iter().all(|layer| store.snapshot_path(*layer).exists()))
    };
    read().unwrap_or(false)
}
