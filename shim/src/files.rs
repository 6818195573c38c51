//! Small files that are there as a whole or not at all.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

/// Replaces a file with this value as JSON, by one rename.
pub(crate) fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    file.write_all(&bytes)?;
    file.persist(path)?;
    Ok(())
}

/// A file's contents, or `None` if there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
