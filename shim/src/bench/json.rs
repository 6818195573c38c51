//! Reports in files: JSON that appears by one rename, and is read with a limit.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::report::{Report, SCHEMA};

/// The longest file that is read.
const MAX_FILE: u64 = 256 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The host refuses.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no report.
    #[error("{path} is no report of `bulkhead bench`: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Writes a report as a file that replaces another.
///
/// # Errors
/// [`FileError::Io`].
pub fn save(report: &Report, path: &Path) -> Result<(), FileError> {
    let text = serde_json::to_vec_pretty(report).map_err(io::Error::from);
    replace(path, &text.map_err(failed("write", path))?)
}

/// Puts bytes into a file that replaces another as a whole. What is no regular file, as `/dev/stdout`, is written to.
///
/// # Errors
/// [`FileError::Io`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if path.exists() && !path.is_file() {
        let written = File::options().write(true).open(path).and_then(|mut f| f.write_all(bytes));
        return written.map_err(failed("write", path));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory.unwrap_or(Path::new(".")))
        .map_err(failed("write", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.persist(path).map(drop).map_err(|error| failed("write", path)(error.error))
}

/// Reads a report.
///
/// # Errors
/// [`FileError`].
pub fn load(path: &Path) -> Result<Report, FileError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.map_err(failed("read", path))?;
    let malformed = |reason: String| FileError::Malformed { path: path.into(), reason };
    // The schema first: of another version the rest may be of any form.
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    match value.get("schema").and_then(serde_json::Value::as_str) {
        Some(SCHEMA) => {}
        Some(other) => return Err(malformed(format!("its schema is {other:?}, not {SCHEMA:?}"))),
        None => return Err(malformed("it has no schema".into())),
    }
    serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bench::sample;

    #[test]
    fn a_report_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        fs::write(&path, "old").unwrap();
        save(&sample::report(), &path).unwrap();
        assert_eq!(load(&path).unwrap(), sample::report());
    }

    #[test]
    fn what_is_no_report_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (text, reason) in [
            ("", "EOF"),
            ("[]", "no schema"),
            ("{\"schema\": \"bulkhead-bench/9\"}", "bulkhead-bench/9"),
            ("{\"schema\": \"bulkhead-bench/1\"}", "missing field"),
        ] {
            fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("x is no report"), "{error}");
        }
        assert!(load(&dir.path().join("none")).unwrap_err().to_string().contains("cannot read"));
    }
}
