//! An image of the store.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, names::Names};
use crate::{
    Digest,
    erofs::{self, ReadError, Volume},
    layer,
};

pub(super) const METADATA: &str = "metadata";
pub(super) const CONFIG: &str = "config.json";
const RECORD: &str = "image.json";
const HOST_METADATA: &str = "metadata.host";

/// What the store writes down about an image, beside its configuration.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The layers' diff_ids, lowest first, as the configuration has them.
    pub(super) layers: Vec<Digest>,
    /// The data blobs of the disk in order: layers that have content, each once.
    pub(super) blobs: Vec<Digest>,
    /// Bytes of the disk: the metadata blob and all data blobs.
    pub(super) size: u64,
}

impl Record {
    pub(super) fn load(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(RECORD);
        let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| StoreError::Damaged { path, reason: e.to_string() })
    }

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        super::import::write_durable(&directory.join(RECORD), &serde_json::to_vec_pretty(self)?)
    }
}

/// An image that is ready to be used.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration.
    pub id: Digest,
    /// Its names, each with its tag, sorted. An image whose names were given to others has none.
    pub names: Vec<String>,
    /// When it was made (RFC 3339), if it says.
    pub created: Option<String>,
    /// Bytes of its disk, holes included. Layers that it shares with other images are on the host once.
    pub size: u64,
    /// Its configuration (OCI image-spec, config.md).
    pub config: ImageConfiguration,
    disk: Vec<PathBuf>,
}

impl Image {
    pub(super) fn load(root: &Path, id: Digest, names: &Names) -> Result<Self, StoreError> {
        let directory = root.join("images").join(id.hex());
        let record = Record::load(&directory)?;
        let path = directory.join(CONFIG);
        let config = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let config: ImageConfiguration = serde_json::from_slice(&config)
            .map_err(|e| StoreError::Damaged { path, reason: e.to_string() })?;
        let blobs =
            record.blobs.iter().map(|blob| root.join("layers").join(blob.hex()).join(layer::DATA));
        Ok(Self {
            id,
            names: names.of(id),
            created: config.created().clone(),
            size: record.size,
            disk: std::iter::once(directory.join(METADATA)).chain(blobs).collect(),
            config,
        })
    }

    /// The files whose concatenation, in this order, is the image's disk: an EROFS volume, to be mounted read-only. The length of each is a
    /// multiple of [`crate::BLOCK`] and not 0. The files are read-only and shared with other images: never write to them.
    #[must_use]
    pub fn disk_files(&self) -> Vec<PathBuf> {
        self.disk.clone()
    }

    /// The same disk for this host's kernel: the file to mount, and the devices that it is mounted with, in order (`-o device=…` for each). Block
    /// addresses in it count over all of them. The first call makes the file.
    ///
    /// # Errors
    /// A store that cannot be read or written, or an image of an older version of this program.
    pub fn host_disk(&self, store: &Store) -> Result<(PathBuf, Vec<PathBuf>), StoreError> {
        let [metadata, blobs @ ..] = self.disk.as_slice() else {
            return Err(StoreError::NotFound(self.id.to_string()));
        };
        let path = metadata.with_file_name(HOST_METADATA);
        if path.exists() {
            return Ok((path, blobs.to_vec()));
        }
        let failed = |source| StoreError::Io { action: "write", path: path.clone(), source };
        let mut bytes = fs::read(metadata).map_err(StoreError::io("read", metadata))?;
        let lengths: io::Result<Vec<u64>> =
            blobs.iter().map(|blob| Ok(fs::metadata(blob)?.len() / crate::BLOCK)).collect();
        if !erofs::for_host(&mut bytes, &lengths.map_err(failed)?) {
            let reason = "it has no device table, as older versions made it".into();
            return Err(StoreError::Damaged { path: metadata.clone(), reason });
        }
        let _shared = store.lock_shared()?;
        let work = store.temporary()?;
        let staged = work.path().join(HOST_METADATA);
        super::import::write_durable(&staged, &bytes).map_err(failed)?;
        fs::rename(&staged, &path).map_err(failed)?;
        Ok((path, blobs.to_vec()))
    }

    /// The content of the regular file `path` (with or without a leading `/`), or None if the image has none. Symbolic links are followed
    /// inside the image only. At most `limit` bytes are read.
    ///
    /// # Errors
    /// Something that is not a regular file, a bigger file, or a damaged store.
    pub fn read_file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
        Volume::open(&self.disk)?.read_file(path.as_bytes(), limit)
    }
}
