//! Import: a source's layers, one after the other, then the image over them. Each appears in the store by one rename, or not at all.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use super::{
    Image, Store, StoreError,
    compose::{ComposeError, Composed, Layers, compose},
    image::{CONFIG, METADATA, Record},
    names::{Names, normalize},
    sync_directory,
};
use crate::{
    Digest, LayerError, MergeError, Source, SourceError, WriteError, layer,
    source::{Package, PackageLayer},
};

/// Why an image could not be imported. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source, its manifest or its configuration.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// One layer.
    #[error("layer {digest}")]
    Layer {
        /// The layer's digest in the manifest, or its diff_id if the source has no other.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: LayerError,
    },
    /// A layer that does not fit on those below it.
    #[error("layer {digest}")]
    Merge {
        /// The layer's digest, as above.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: MergeError,
    },
    /// The image's metadata blob.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Is told how an import goes on. Called from several threads. All methods may be left out; `()` shows nothing.
pub trait Progress: Sync {
    /// Layer `number` (from 0) of `count` begins: a blob of `bytes` bytes.
    fn layer_started(&self, number: usize, count: usize, digest: &Digest, bytes: u64) {
        let _ = (number, count, digest, bytes);
    }
    /// So many bytes of the blob of layer `number` have been read.
    fn layer_advanced(&self, number: usize, bytes: u64) {
        let _ = (number, bytes);
    }
    /// Layer `number` is in the store; `reused` if it was there before.
    fn layer_finished(&self, number: usize, reused: bool) {
        let _ = (number, reused);
    }
    /// Something else that may take a moment, in a few words.
    fn message(&self, text: &str) {
        let _ = text;
    }
}

impl Progress for () {}

impl Store {
    /// Imports an image. `name` is what it is to be called, instead of what its source calls it; `:latest` is added if it has no tag.
    /// A name that another image had moves. Layers that the store has are not read again.
    ///
    /// # Errors
    /// A source, layer or entry that is refused, or a store that cannot be written. Nothing is left behind then.
    pub fn import(
        &self,
        source: &Source,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Image, ImportError> {
        let result = self.import_unswept(source, name, progress);
        // An error of the sweep would hide the one that matters, or make a failure of a success.
        let _ = match &result {
            // Layers that were finished before another one failed.
            Err(_) => self.sweep_soon(),
            // What others had to leave while this import was running.
            Ok(_) => self.sweep_leftovers(),
        };
        result
    }

    fn import_unswept(
        &self,
        source: &Source,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Image, ImportError> {
        let package = source.open()?;
        let given = name.map(|name| vec![name.to_owned()]).unwrap_or_else(|| package.names.clone());
        let names = given.iter().map(|name| normalize(name)).collect::<Result<Vec<_>, _>>()?;
        let _shared = self.lock_shared()?;
        let work = self.temporary()?;
        if !self.image_path(package.id).exists() {
            self.import_image(&package, work.path(), progress)?;
        }
        let _table = self.lock_table()?;
        let staged = work.path().join("image");
        let path = self.image_path(package.id);
        if staged.exists() && !path.exists() {
            let publish = || {
                fs::rename(&staged, &path)?;
                sync_directory(&self.root.join("images"))
            };
            publish().map_err(StoreError::io("write", &path))?;
        }
        let mut table = Names::read(&self.root)?;
        for name in names {
            table.set(name, package.id);
        }
        table.write(&self.root)?;
        Ok(Image::load(&self.root, package.id, &table)?)
    }

    /// Brings all layers, then makes the image in `work/image`.
    fn import_image(
        &self,
        package: &Package,
        work: &Path,
        progress: &dyn Progress,
    ) -> Result<(), ImportError> {
        let count = package.layers.len();
        for (number, layer) in package.layers.iter().enumerate() {
            progress.layer_started(number, count, &layer.digest(), layer.size());
            let reused = self.import_layer(number, layer, work, progress)?;
            progress.layer_finished(number, reused);
        }
        progress.message("joining the layers");
        self.join(package, work)
    }

    /// Returns whether the store had the layer.
    fn import_layer(
        &self,
        number: usize,
        layer: &PackageLayer,
        work: &Path,
        progress: &dyn Progress,
    ) -> Result<bool, ImportError> {
        let path = self.layer_path(layer.diff_id);
        if path.exists() {
            return Ok(true);
        }
        let _making = self.lock_making(&layer.diff_id.hex())?;
        if path.exists() {
            return Ok(true);
        }
        let failed = |source| ImportError::Layer { digest: layer.digest(), source };
        let staged = work.join(format!("layer-{number}"));
        fs::create_dir(&staged).map_err(StoreError::io("make", &staged))?;
        let blob = layer.blob().map_err(|e| failed(LayerError::Read(e)))?;
        layer::import(blob, &staged, &|bytes| progress.layer_advanced(number, bytes))
            .map_err(failed)?;
        let publish = || {
            sync_directory(&staged)?;
            fs::rename(&staged, &path)?;
            sync_directory(&self.root.join("layers"))
        };
        publish().map_err(StoreError::io("write", &path))?;
        Ok(false)
    }

    fn join(&self, package: &Package, work: &Path) -> Result<(), ImportError> {
        let diff_ids: Vec<Digest> = package.layers.iter().map(|layer| layer.diff_id).collect();
        let staged = work.join("image");
        fs::create_dir(&staged).map_err(StoreError::io("make", &staged))?;
        let layers = Layers {
            keys: &diff_ids,
            index: &|diff_id| self.layer_path(diff_id).join(layer::INDEX),
            identity: identity(&diff_ids),
        };
        let Composed { blobs, size } =
            compose(&layers, &staged.join(METADATA)).map_err(|error| match error {
                ComposeError::Merge { number, source } => {
                    let layer = package.layers.get(number);
                    let digest = layer.map_or(package.id, PackageLayer::digest);
                    ImportError::Merge { digest, source }
                }
                ComposeError::Write(error) => error.into(),
                ComposeError::Store(error) => error.into(),
            })?;
        let finish = || {
            write_durable(&staged.join(CONFIG), &package.config)?;
            Record { layers: diff_ids, blobs, size }.write(&staged)?;
            sync_directory(&staged)
        };
        finish().map_err(StoreError::io("write", &staged)).map_err(Into::into)
    }
}

/// What makes an image's disk the disk that it is: its layers, in order, and the way this version lays them out.
fn identity(diff_ids: &[Digest]) -> Digest {
    let mut text = String::from("bulkhead erofs 1\n");
    for diff_id in diff_ids {
        text.push_str(&diff_id.to_string());
        text.push('\n');
    }
    Digest::of(text.as_bytes())
}

pub(crate) fn write_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
