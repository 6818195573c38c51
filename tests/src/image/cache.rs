//! Images that were made once are kept under the user's cache directory, keyed by the recipe and the packages' hashes.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::{ImageError, Name, build, resolve};

/// The sources that decide what is in an image: a change of them makes another key.
const RECIPE: [&str; 6] = [
    include_str!("catalogue.rs"),
    include_str!("debian.rs"),
    include_str!("entry.rs"),
    include_str!("layer.rs"),
    include_str!("layout.rs"),
    include_str!("zoo.rs"),
];

/// The directory of an image's OCI layout, made when it is not there yet; never to be written to.
///
/// # Errors
/// [`ImageError`].
pub fn cached(name: Name) -> Result<PathBuf, ImageError> {
    let cache = directory();
    let images = cache.join("images");
    fs::create_dir_all(&images).map_err(ImageError::at(&images))?;
    let packages = resolve(&name.packages())?;
    let mut key = Sha256::new();
    RECIPE.iter().for_each(|source| key.update(source));
    for package in &packages {
        key.update(format!("{} {}\n", package.file, package.hash));
    }
    let key = format!("{}-{}", name.as_str(), &bulkhead_probe::hex(&key.finalize())[..24]);
    let layout = images.join(&key);
    if layout.exists() {
        return Ok(layout);
    }

    let lock_path = images.join(format!("{key}.lock"));
    let lock = fs::File::create(&lock_path).map_err(ImageError::at(&lock_path))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| ImageError::at(&lock_path)(error.into()))?;
    if !layout.exists() {
        eprintln!("images: making {} of {} packages", name.as_str(), packages.len());
        let image = build(name, &packages, &cache.join("packages"))?;
        let unfinished = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&images)
            .map_err(ImageError::at(&images))?;
        let inner = unfinished.path().join("layout");
        image.write_layout(&inner)?;
        fs::rename(&inner, &layout).map_err(ImageError::at(&layout))?;
        let size: usize = image.layers.iter().map(|layer| layer.tar.len()).sum();
        eprintln!(
            "images: {} is ready, {} layers, {} KiB",
            name.as_str(),
            image.layers.len(),
            size >> 10
        );
    }
    let _ = fs::remove_file(&lock_path);
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
