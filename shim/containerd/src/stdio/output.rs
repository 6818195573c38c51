//! Where a process's output goes, by the scheme of its name.

use std::{os::fd::OwnedFd, path::Path, sync::Arc};

use super::{
    Names, fifo,
    file::LogFile,
    logger::{self, Unread},
};
use crate::{
    exits::Exits,
    refusal::{Refusal, cannot},
};

/// Ends for a process; none: nobody wants it.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// For the shim.
    pub(super) held: Vec<OwnedFd>,
    pub(super) file: Option<LogFile>,
    pub(super) unread: Option<Unread>,
}

/// Opens both. The name of standard output decides for files and programs, which get both.
///
/// # Errors
/// What cannot be opened, or a scheme that nobody knows.
pub(super) async fn open(
    names: &Names,
    id: &str,
    namespace: &str,
    exits: &Arc<Exits>,
) -> Result<Output, Refusal> {
    match names.stdout.split_once("://") {
        Some(("binary", _)) => logger::start(&names.stdout, id, namespace, exits).await,
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
    let (writer, file) = LogFile::open(path)?;
    let other = writer.try_clone().map_err(cannot("make a pipe"))?;
    Ok(Output {
        stdout: Some(writer.into()),
        stderr: Some(other.into()),
        file: Some(file),
        ..Output::default()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write,
    };

    use super::*;

    fn names(stdout: &str) -> Names {
        Names { stdout: stdout.into(), ..Names::default() }
    }

    #[tokio::test]
    async fn a_file_gets_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/log");
        let names = names(&format!("file://{}", path.display()));
        let output = open(&names, "c", "n", &Arc::default()).await.unwrap();
        for stream in [output.stdout, output.stderr] {
            File::from(stream.unwrap()).write_all(b"x").unwrap();
        }
        output.file.unwrap().flush().await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "xx");
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_named() {
        let exits = Arc::default();
        let error = open(&names("moon://x"), "c", "n", &exits).await.unwrap_err().to_string();
        assert!(error.contains("moon"), "{error}");
        assert!(open(&names(""), "c", "n", &exits).await.unwrap().stdout.is_none());
    }
}
