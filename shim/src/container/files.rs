//! Files of a container's directories: JSON that appears by one rename.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::ContainerError;
use crate::files;

/// Makes a directory that only its owner enters, with those above it.
pub(super) fn make_directory(path: &Path) -> Result<(), ContainerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ContainerError::io("make", path))
}

/// Replaces a file as a whole.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ContainerError> {
    files::replace(path, value).map_err(ContainerError::io("write", path))
}

/// Reads a file, or `None` if there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ContainerError> {
    let bytes = files::read(path).map_err(ContainerError::io("read", path))?;
    let Some(bytes) = bytes else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ContainerError::Damaged { path: path.into(), reason: error.to_string() })
}

/// Opens a file for flock(2).
pub(super) fn lock_file(directory: &Path) -> Result<File, ContainerError> {
    let path = directory.join("lock");
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(ContainerError::io("open", &path))
}

/// Removes a directory with all in it; that it is not there is no error.
pub(super) fn remove_directory(path: &Path) -> Result<(), ContainerError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ContainerError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The directories in a directory, with their names.
pub(super) fn subdirectories(directory: &Path) -> Result<Vec<(String, PathBuf)>, ContainerError> {
    let entries = fs::read_dir(directory).map_err(ContainerError::io("read", directory))?;
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect();
    found.sort();
    Ok(found)
}
