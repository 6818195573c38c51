//! Images for tests, benchmarks and the demonstration, made from the distribution's packages: no registry is asked.

mod cache;
mod catalogue;
mod debian;
mod entry;
mod layer;
mod layout;
mod packages;
mod reader;
mod tree;
mod zoo;

pub use cache::{cached, cached_as};
pub use catalogue::{Name, build};
pub use debian::{merge_usr, system_layer};
pub use entry::{DEFAULT_MTIME, Entry, Kind};
pub use layer::{Compression, append, tar_of};
pub use layout::{Config, Image, Layer, digest_of};
pub use packages::{Package, members, resolve};
pub use tree::tree_of;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that name.
    #[error("there is no image \"{0}\"; there are busybox, debian and python")]
    Unknown(String),
    /// A program that is needed failed or is missing.
    #[error("{program} failed: {reason}")]
    Program {
        /// The program and its arguments.
        program: String,
        /// Its last words.
        reason: String,
    },
    /// A package does not hold what the image needs.
    #[error("the package {package} has no {path}")]
    Missing {
        /// The package.
        package: String,
        /// The path.
        path: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl ImageError {
    /// For `map_err` on what is done with `path`.
    pub(crate) fn at(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::File { path: path.display().to_string(), source }
    }
}
