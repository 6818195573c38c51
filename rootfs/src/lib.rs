//! OCI images to block images.
//!
//! A layer (a tar stream, compressed or not) becomes one **data blob**, the content of its files and nothing else, each file on a 4096-byte
//! block, and an **index**, everything else about it. Both are made while the layer streams by, once, and shared by all images that have
//! the layer. An image is one small EROFS **metadata blob** over the data blobs of its layers; whiteouts, opaque directories and hard links are
//! resolved in it. The disk that a guest mounts is the plain concatenation `[metadata][data of layer 0][data of layer 1]...`, see
//! [`Image::disk_files`]. No file of an image is ever unpacked, or opened by an image's path, on the host.
//!
//! Whoever wants the image on the host itself, as a plain container does, mounts [`Image::host_disk`]: the kernel then reads what this crate wrote, never
//! what the image's author wrote.
//!
//! # What is refused
//! Images are not trusted. One bad entry refuses the whole image, with the layer's digest and the entry's name, and nothing of it stays:
//!
//! | in a layer | what happens |
//! |---|---|
//! | a name that is empty, absolute, has a `..` component, a NUL, more than 4095 bytes or a component over 255 | refused |
//! | a path or hard link target through a symbolic link, or through a file, of the same layer | refused |
//! | a path through a symbolic link of a lower layer | resolved inside the image's root, as containerd does; what is missing is made |
//! | the same directory again | the last one's owner, mode, time and attributes count |
//! | any other name twice, also by way of a lower layer's symbolic link | refused |
//! | a hard link to a directory, to nothing, or to what its layer brings later | refused |
//! | `.wh.NAME` beside `NAME` of the same layer | hides the lower layers' only |
//! | `.wh.NAME` of nothing; `.wh..wh.plnk` and other bookkeeping of AUFS | ignored |
//! | `.wh.` alone, or a whiteout used as a directory | refused |
//! | `user.*`, `security.*` attributes, POSIX ACLs | kept where Linux would show them |
//! | `trusted.*` and other attributes | dropped, as containerd does |
//! | a stream, manifest or configuration that is not what its digest and size say | refused, with both digests |
//! | layers that are encrypted or stored elsewhere, unknown media types, another platform, no layers | refused |
//! | a hole, or a megabyte of zeros | costs no disk |
//! | more than 2,000,000 entries or 256 MiB of names and attributes in a layer, 1 MiB in one tar header, 1 TiB of stream, 16 TiB in a file | refused |
//! | more content than the store's disk has room for | refused while 64 MiB are still free |
//!
//! # Parts
//! - [`Store`]: the images and layers on this host; [`Store::import`] takes a [`Source`].
//! - [`Image`]: an image of the store, and a reader for single files in it.
//! - [`snapshot`]: the same disks, of directories that are on the host already.
//! - [`writable`]: the ext4 image that holds what a container writes.

mod digest;
mod erofs;
mod layer;
mod limits;
mod merge;
mod path;
pub mod snapshot;
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
