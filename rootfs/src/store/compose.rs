//! Layers that are in the store become one disk: a metadata blob over their data blobs.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::StoreError;
use crate::{BLOCK, Digest, MergeError, WriteError, erofs, layer::LayerIndex, limits, merge};

/// The layers of a disk.
pub(crate) struct Layers<'l> {
    /// Their names, lowest first.
    pub(crate) keys: &'l [Digest],
    /// Where the index of one is.
    pub(crate) index: &'l dyn Fn(Digest) -> PathBuf,
    /// What makes the disk the disk that it is.
    pub(crate) identity: Digest,
}

/// A disk.
pub(crate) struct Composed {
    /// The layers whose data blobs follow the metadata blob: those that have content, each once.
    pub(crate) blobs: Vec<Digest>,
    /// Bytes of the disk.
    pub(crate) size: u64,
}

/// Why there is no disk.
pub(crate) enum ComposeError {
    /// The layer of this number does not fit on those below it.
    Merge {
        number: usize,
        source: MergeError,
    },
    Write(WriteError),
    Store(StoreError),
}

/// Writes the metadata blob to `metadata`.
pub(crate) fn compose(layers: &Layers<'_>, metadata: &Path) -> Result<Composed, ComposeError> {
    let mut budget = limits::IMAGE_METADATA as u64;
    let mut indexes = Vec::with_capacity(layers.keys.len());
    for key in layers.keys {
        let path = (layers.index)(*key);
        let index = LayerIndex::read(&path, &mut budget).map_err(StoreError::io("read", &path));
        indexes.push(index.map_err(ComposeError::Store)?);
    }
    let mut image = merge::Image::new();
    for (number, index) in indexes.iter().enumerate() {
        image.apply(number, index).map_err(|source| ComposeError::Merge { number, source })?;
    }

    // A layer that a disk has twice is on it once; one without content is not.
    let (mut blobs, mut lengths) = (Vec::new(), Vec::new());
    let mut numbers = HashMap::new();
    let mut blob_of_layer = Vec::with_capacity(indexes.len());
    for (key, index) in layers.keys.iter().zip(&indexes) {
        let number = *numbers.entry(*key).or_insert_with(|| {
            if index.data_blocks > 0 {
                blobs.push(*key);
                lengths.push(index.data_blocks);
            }
            blobs.len().saturating_sub(1)
        });
        blob_of_layer.push(number);
    }
    let written = erofs::Layers {
        blob_of_layer: &blob_of_layer,
        blob_blocks: &lengths,
        identity: layers.identity,
    };
    let blocks = erofs::write(&image, &written, metadata).map_err(ComposeError::Write)?;
    Ok(Composed { blobs, size: u64::from(blocks) * BLOCK })
}
