//! Where a process's output goes, by the scheme of its name.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::Path,
};

use super::{Names, fifo, logger};
use crate::refusal::{Refusal, at, cannot};

/// Ends for a process; none: nobody wants it.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// For the shim.
    pub(super) held: Vec<OwnedFd>,
}

/// Opens both. The name of standard output decides for files and programs, which get both.
///
/// # Errors
/// What cannot be opened, or a scheme that nobody knows.
pub(super) async fn open(names: &Names, id: &str, namespace: &str) -> Result<Output, Refusal> {
    match names.stdout.split_once("://") {
        Some(("binary", _)) => logger::start(&names.stdout, id, namespace).await,
        Some(("file", path)) => file(Path::new(path)),
        Some((scheme, _)) if scheme != "fifo" => Err(Refusal::invalid(format!(
            "stdout {}: fifo, file or binary is wanted, not {scheme}",
            names.stdout
        ))),
        _ => pipes(names).await,
    }
}

async fn pipes(names: &Names) -> Result<Output, Refusal> {
    let mut output = Output::default();
    if !names.stdout.is_empty() {
        let (writer, held) = fifo::output(&names.stdout).await?;
        output.stdout = Some(writer);
        output.held.extend(held);
    }
    if names.terminal || names.stderr.is_empty() {
        return Ok(output);
    }
    if names.stderr == names.stdout {
        let shared = output.stdout.as_ref().map(OwnedFd::try_clone);
        output.stderr = shared.transpose().map_err(cannot("share an output"))?;
        return Ok(output);
    }
    let (writer, held) = fifo::output(&names.stderr).await?;
    output.stderr = Some(writer);
    output.held.extend(held);
    Ok(output)
}

fn file(path: &Path) -> Result<Output, Refusal> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at("make", parent))?;
    }
    let file = File::options().create(true).append(true).open(path).map_err(at("open", path))?;
    let other = file.try_clone().map_err(at("open", path))?;
    Ok(Output { stdout: Some(file.into()), stderr: Some(other.into()), held: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(stdout: &str) -> Names {
        Names { stdout: stdout.into(), ..Names::default() }
    }

    #[tokio::test]
    async fn a_file_gets_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/log");
        let output = open(&names(&format!("file://{}", path.display())), "c", "n").await.unwrap();
        for stream in [output.stdout, output.stderr] {
            File::from(stream.unwrap()).write_all(b"x").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "xx");
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_named() {
        let error = open(&names("moon://x"), "c", "n").await.unwrap_err().to_string();
        assert!(error.contains("moon"), "{error}");
        assert!(open(&names(""), "c", "n").await.unwrap().stdout.is_none());
    }
}
