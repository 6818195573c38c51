//! The file that tells a manager a container's or a process's number.

use std::{fs, path::Path};

use rustix::process::Pid;

use super::error::{LifecycleError, at};

/// Writes the number, without a newline as runc does; readers never see half of it.
///
/// # Errors
/// [`LifecycleError::File`].
pub fn write(path: &Path, pid: Pid) -> Result<(), LifecycleError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    fs::write(&new, pid.as_raw_nonzero().to_string()).map_err(at("write", &new))?;
    fs::rename(&new, path).map_err(|error| {
        // Half of a file that nobody asked for.
        let _ = fs::remove_file(&new);
        at("write", path)(error)
    })
}
