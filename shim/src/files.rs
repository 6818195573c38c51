//! Small files that are there as a whole or not at all.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

/// How the names of files begin that are not whole yet. A killed process leaves one.
pub(crate) const NEW: &str = ".new-";

/// Replaces a file with this value as JSON, by one rename. It has the mode 0600.
pub(crate) fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    put(path, value, false)
}

/// The same for a file that must outlast a loss of power, once its directory is synced.
pub(crate) fn replace_durably(path: &Path, value: &impl Serialize) -> io::Result<()> {
    put(path, value, true)
}

fn put(path: &Path, value: &impl Serialize, durable: bool) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut new = tempfile::Builder::new();
    let mut file = new.prefix(&format!("{NEW}{name}.")).tempfile_in(directory)?;
    file.write_all(&bytes)?;
    if durable {
        file.as_file().sync_all()?;
    }
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
