//! Images that were made once are kept under the user's cache directory, each keyed by all that it is made from.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, process::geteuid};
use sha2::{Digest, Sha256};

use super::{Image, ImageError, Name, build, packages, resolve};

/// The sources that decide what is in an image: a change of them makes another key.
const RECIPE: [&str; 7] = [
    include_str!("catalogue.rs"),
    include_str!("debian.rs"),
    include_str!("entry.rs"),
    include_str!("layer.rs"),
    include_str!("layout.rs"),
    include_str!("packages.rs"),
    include_str!("zoo.rs"),
];

/// The OCI layout of an image of the catalogue, made when it is not there yet; never to be written to.
///
/// # Errors
/// [`ImageError`].
pub fn cached(name: Name) -> Result<PathBuf, ImageError> {
    match made_of_packages(name) {
        // There is no index of packages yet, or it names files that the archive no longer has.
        Err(ImageError::Program { .. }) if geteuid().is_root() => {
            packages::refresh()?;
            made_of_packages(name)
        }
        made => made,
    }
}

fn made_of_packages(name: Name) -> Result<PathBuf, ImageError> {
    let packages = resolve(&name.packages())?;
    let versions: String =
        packages.iter().map(|package| format!("{} {}\n", package.file, package.hash)).collect();
    cached_as(name.as_str(), versions.as_bytes(), || {
        build(name, &packages, &directory().join("packages"))
    })
}

/// The OCI layout of the image that `make` makes of `inputs`, made when it is not there yet; never to be written to.
///
/// # Errors
/// [`ImageError`].
pub fn cached_as(
    label: &str,
    inputs: &[u8],
    make: impl FnOnce() -> Result<Image, ImageError>,
) -> Result<PathBuf, ImageError> {
    let images = directory().join("images");
    fs::create_dir_all(&images).map_err(ImageError::at(&images))?;
    let mut key = Sha256::new();
    RECIPE.iter().for_each(|source| key.update(source));
    key.update(inputs);
    let key = format!("{label}-{}", &bulkhead_probe::hex(&key.finalize())[..24]);
    let layout = images.join(&key);
    if layout.exists() {
        return Ok(layout);
    }
    let lock = fs::File::open(&images).map_err(ImageError::at(&images))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| ImageError::at(&images)(error.into()))?;
    if !layout.exists() {
        eprintln!("images: making {label}");
        let image = make()?;
        let unfinished = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&images)
            .map_err(ImageError::at(&images))?;
        let inner = unfinished.path().join("layout");
        image.write_layout(&inner)?;
        fs::rename(&inner, &layout).map_err(ImageError::at(&layout))?;
        let size: usize = image.layers.iter().map(|layer| layer.tar.len()).sum();
        let count = image.layers.len();
        eprintln!("images: {label} is ready, layers: {count}, unpacked: {} KiB", size >> 10);
    }
    Ok(layout)
}

/// `$XDG_CACHE_HOME/bulkhead`, else `~/.cache/bulkhead`, else `/var/cache/bulkhead`.
fn directory() -> PathBuf {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| Path::new("/var/cache").to_owned());
    cache.join("bulkhead")
}
