//! A process's standard streams as containerd names them: named pipes whose other ends are a client's, files, or a program that logs.
//!
//! Without a terminal, the pipes themselves are the process's streams (in a microVM: those of the process that stands for it), and the
//! shim copies nothing but to files: who does not read stops the writer, and nothing is held in between. The shim keeps the other end of
//! each pipe open, so that a client may go and another may come: standard input ends when `CloseIO` was called, and what was written is not
//! lost before the process is deleted. A full disk and a program that logs no more stop nobody: what they do not take is lost.

mod console;
mod fifo;
mod file;
mod logger;
mod output;

use std::{os::fd::OwnedFd, sync::Arc};

pub(crate) use console::Console;
use file::LogFile;
use logger::Unread;
use output::Output;

use crate::{exits::Exits, helper::Streams, refusal::Refusal};

/// What containerd names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// A named pipe; empty: no input.
    pub(crate) stdin: String,
    /// A named pipe, a file, or a URL with `fifo`, `file` or `binary` as its scheme; empty: nobody wants it.
    pub(crate) stdout: String,
    /// As above. What a file or a program gets is both.
    pub(crate) stderr: String,
    /// They are one terminal.
    pub(crate) terminal: bool,
}

/// Ends that the shim holds as long as the process is there.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Until input is closed.
    stdin: Option<OwnedFd>,
    /// Until the process is deleted.
    _outputs: Vec<OwnedFd>,
    _unread: Option<Unread>,
    file: Option<Arc<LogFile>>,
}

impl Held {
    /// No more input comes from the shim's side; once all clients have closed theirs, it ends.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// What has to be flushed when the process has ended.
    pub(crate) fn unwritten(&self) -> Unwritten {
        Unwritten(self.file.clone())
    }
}

/// Output that is on its way to a file.
#[derive(Debug)]
pub(crate) struct Unwritten(Option<Arc<LogFile>>);

impl Unwritten {
    /// Waits until it is there, but not for ever.
    pub(crate) async fn flush(&self) {
        if let Some(file) = &self.0 {
            file.flush().await;
        }
    }
}

/// Streams that are open.
#[derive(Debug)]
pub(crate) struct Opened {
    /// For the process.
    pub(crate) streams: Streams,
    /// For the shim.
    pub(crate) held: Held,
    /// For the process's terminal, in place of its streams.
    pub(crate) terminal: Option<(OwnedFd, OwnedFd)>,
}

/// Opens them for a container's process.
///
/// # Errors
/// What cannot be opened, by its name.
pub(crate) async fn open(
    names: &Names,
    id: &str,
    namespace: &str,
    exits: &Arc<Exits>,
) -> Result<Opened, Refusal> {
    let null = Streams::null()?;
    let (stdin, writer) = match names.stdin.as_str() {
        "" => (null.stdin, None),
        name => fifo::input(name).map(|(reader, writer)| (reader, Some(writer)))?,
    };
    let Output { stdout, stderr, held, file, unread } =
        output::open(names, id, namespace, exits).await?;
    let held = Held { stdin: writer, _outputs: held, _unread: unread, file: file.map(Arc::new) };
    let stdout = stdout.unwrap_or(null.stdout);
    if names.terminal {
        let streams = Streams::null()?;
        return Ok(Opened { streams, held, terminal: Some((stdin, stdout)) });
    }
    let streams = Streams { stdin, stdout, stderr: stderr.unwrap_or(null.stderr) };
    Ok(Opened { streams, held, terminal: None })
}
