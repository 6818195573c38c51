//! OCI images to block images.
//!
//! A layer (a tar stream, compressed or not) becomes one **data blob**, the content of its files and nothing else, each file on a 4096-byte
//! block, and an **index**, everything else about it. Both are made while the layer streams by, once, and shared by all images that have
//! the layer. An image is one small EROFS **metadata blob** over the data blobs of its layers; whiteouts, opaque directories and hard links are
//! resolved in it. The disk that a guest mounts is the plain concatenation `[metadata][data of layer 0][data of layer 1]...`, see
//! [`Image::disk_files`]. No file of an image is ever unpacked, opened by an image's path, or mounted on the host.
//!
//! - [`Store`]: the images and layers on this host; [`Store::import`] takes a [`Source`].
//! - [`Image`]: an image of the store, and a reader for single files in it.
//! - [`writable`]: the ext4 image that holds what a container writes.

mod digest;
mod erofs;
mod layer;
mod limits;
mod merge;
mod path;
mod source;
mod store;
mod tar;
pub mod writable;

pub use digest::{Digest, DigestError};
pub use erofs::{ReadError, WriteError};
pub use layer::{EntryError, LayerError};
pub use limits::BLOCK;
pub use merge::MergeError;
pub use oci_spec::image::ImageConfiguration;
pub use path::PathError;
pub use source::{Source, SourceError};
pub use store::{Image, ImportError, Progress, Store, StoreError};
pub use tar::TarError;
