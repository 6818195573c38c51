//! The images and layers on this host. One directory, owned by one user:
//!
//! ```text
//! version                    "1"
//! lock                       held shared by whoever adds, exclusively by whoever sweeps
//! table.lock, names.json     which name is which image; images come and go under this lock
//! layers/<diff_id>/          data, index
//! images/<id>/               metadata, config.json, image.json
//! writable/                  empty ext4 images, one per size
//! snapshots/<stamp>/         data, index, source.json: what directories of the host hold
//! roots/<id>/                metadata, root.json: disks of such directories
//! locks/<diff_id>            held by who is making that layer
//! tmp/                       what is not finished; renamed into place when it is
//! ```
//!
//! Everything under `layers` and `images` is complete and durable, because it appears by one rename. A process that is killed leaves
//! something in `tmp`, and whoever opens the store next sweeps it away, unless others are still at work.

mod compose;
mod image;
mod import;
mod lock;
mod names;
mod sweep;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

pub(crate) use compose::{ComposeError, Layers, compose};
pub use image::Image;
pub(crate) use import::write_durable;
pub use import::{ImportError, Progress};
pub(crate) use lock::Lock;

use crate::Digest;
use names::Names;

const VERSION: &str = "1\n";

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory of the store.
    #[error("the image store cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A store of another version of this program.
    #[error("the image store {} has layout version \"{found}\"; this program knows 1: use another directory", path.display())]
    Version {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// A file of the store that makes no sense.
    #[error("{} is damaged ({reason}); remove the image and import it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No image of that name or id.
    #[error("no image \"{0}\" in the store; import it first")]
    NotFound(String),
    /// An abbreviation of several images.
    #[error("\"{reference}\" may mean {matches}; say more")]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// What it may mean.
        matches: String,
    },
    /// A name that cannot be one.
    #[error(
        "\"{0}\" is no image name: use letters, digits and . _ - / with an optional :TAG, at most 255 characters"
    )]
    Name(String),
}

impl StoreError {
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// A store of images. Any number of processes may use one at the same time.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, making it (mode 0700) if it is not there, and sweeps away what killed processes left in it.
    ///
    /// # Errors
    /// A store of another version, or one that cannot be read and written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        let make = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(StoreError::io("make", path))
        };
        make(root)?;
        let starting = store.lock_shared()?;
        let version = root.join("version");
        match fs::read_to_string(&version) {
            Ok(found) if found == VERSION => {}
            Ok(found) => {
                let found = found.trim().escape_debug().take(40).collect();
                return Err(StoreError::Version { path: root.to_owned(), found });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("read", &version)(e)),
        }
        for name in ["layers", "images", "writable", "snapshots", "roots", "locks", "tmp"] {
            make(&root.join(name))?;
        }
        if !version.exists() {
            let temporary = tempfile::NamedTempFile::new_in(store.tmp())
                .map_err(StoreError::io("write", &version))?;
            fs::write(temporary.path(), VERSION).map_err(StoreError::io("write", &version))?;
            temporary.persist(&version).map_err(|e| StoreError::io("write", &version)(e.error))?;
        }
        drop(starting);
        store.sweep_leftovers()?;
        Ok(store)
    }

    /// All images: in the order of their first names, nameless ones at the end.
    ///
    /// # Errors
    /// A damaged or unreadable store.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let _table = self.lock_table()?;
        let names = Names::read(&self.root)?;
        let mut images = Vec::new();
        for id in self.image_ids()? {
            images.push(Image::load(&self.root, id, &names)?);
        }
        images.sort_by(|a, b| {
            (a.names.is_empty(), &a.names, a.id).cmp(&(b.names.is_empty(), &b.names, b.id))
        });
        Ok(images)
    }

    /// The image that `reference` means: a name (`debian:12`; `:latest` may be left out, and so may leading parts of the name if the rest is
    /// unique), an id (`sha256:...`) or the unique start of one.
    ///
    /// # Errors
    /// No such image, or several.
    pub fn get(&self, reference: &str) -> Result<Image, StoreError> {
        let _table = self.lock_table()?;
        let names = Names::read(&self.root)?;
        let id = self.find(&names, reference)?;
        Image::load(&self.root, id, &names)
    }

    /// Removes a name, and the image with it if that was its last one; or an image with all its names, if `reference` is an id.
    /// Layers that no other image has go too, as soon as no import is running. Files that are open stay readable until they are closed.
    ///
    /// # Errors
    /// No such image, or a store that cannot be changed.
    pub fn remove(&self, reference: &str) -> Result<(), StoreError> {
        {
            let _shared = self.lock_shared()?;
            let _table = self.lock_table()?;
            let mut names = Names::read(&self.root)?;
            let id = self.find(&names, reference)?;
            match names.name_for(reference).filter(|_| names.of(id).len() > 1) {
                Some(name) => names.remove(&name),
                None => {
                    let trash = self.temporary()?;
                    let path = self.image_path(id);
                    names.remove_image(id);
                    // The name goes first: a name without an image would be worse than an image without a name.
                    names.write(&self.root)?;
                    fs::rename(&path, trash.path().join("image"))
                        .map_err(StoreError::io("remove", &path))?;
                }
            }
            names.write(&self.root)?;
        }
        self.sweep_soon()
    }

    pub(crate) fn lock_shared(&self) -> Result<Lock, StoreError> {
        let path = self.root.join("lock");
        Lock::shared(&path).map_err(StoreError::io("lock", &path))
    }

    /// Held while images or names are added or removed, and while they are looked up.
    fn lock_table(&self) -> Result<Lock, StoreError> {
        let path = self.root.join("table.lock");
        Lock::exclusive(&path).map_err(StoreError::io("lock", &path))
    }

    /// Waits for whoever else makes the thing `name`, then keeps others waiting. Needs the shared lock.
    pub(crate) fn lock_making(&self, name: &str) -> Result<Lock, StoreError> {
        let path = self.root.join("locks").join(name);
        Lock::exclusive(&path).map_err(StoreError::io("lock", &path))
    }

    /// A directory for unfinished things, removed when it is dropped. Needs the shared lock.
    pub(crate) fn temporary(&self) -> Result<tempfile::TempDir, StoreError> {
        tempfile::TempDir::new_in(self.tmp())
            .map_err(StoreError::io("make a directory in", &self.tmp()))
    }

    pub(crate) fn writable_path(&self, name: &str) -> PathBuf {
        self.root.join("writable").join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    pub(crate) fn snapshot_path(&self, stamp: Digest) -> PathBuf {
        self.root.join("snapshots").join(stamp.hex())
    }

    pub(crate) fn root_path(&self, id: Digest) -> PathBuf {
        self.root.join("roots").join(id.hex())
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn layer_path(&self, diff_id: Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    fn image_path(&self, id: Digest) -> PathBuf {
        self.root.join("images").join(id.hex())
    }

    fn image_ids(&self) -> Result<Vec<Digest>, StoreError> {
        Ok(entries(&self.root.join("images"))?
            .iter()
            .filter_map(|name| Digest::from_hex(name))
            .collect())
    }

    fn find(&self, names: &Names, reference: &str) -> Result<Digest, StoreError> {
        if let Some(id) = names.find(reference)? {
            return Ok(id);
        }
        let start = reference.strip_prefix("sha256:").unwrap_or(reference);
        let ids: Vec<_> = self
            .image_ids()?
            .into_iter()
            .filter(|id| !start.is_empty() && id.hex().starts_with(start))
            .collect();
        match ids.as_slice() {
            [id] => Ok(*id),
            [] => Err(StoreError::NotFound(reference.to_owned())),
            several => {
                let matches =
                    several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(StoreError::Ambiguous { reference: reference.to_owned(), matches })
            }
        }
    }
}

/// The names in a directory of the store, all of which this program made.
pub(crate) fn entries(directory: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> io::Result<Vec<String>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    read().map_err(StoreError::io("read", directory))
}

/// Makes renames into a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
