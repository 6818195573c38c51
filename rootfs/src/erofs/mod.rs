//! EROFS as Bulkhead uses it: one metadata blob per image, whose block addresses count on over the data blobs of the image's layers.
//! Read by Linux 6.1 and later; the format is in Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h.

mod devices;
mod directory;
mod disk;
mod plan;
mod read;
mod write;

pub(crate) use devices::for_host;
pub use read::ReadError;
pub(crate) use read::Volume;
pub use write::WriteError;
pub(crate) use write::{Layers, write};
