//! The shim's side: starts helpers and hears them.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::{fs::MemfdFlags, io::FdFlags};
use tokio::sync::oneshot;

use super::{Answer, MAX_ANSWER, Request};
use crate::{
    exits::{Exit, Exits},
    handover, log,
    refusal::{Refusal, cannot},
};

/// The standard streams of a process.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Streams {
    /// Of a process that reads and writes nothing.
    ///
    /// # Errors
    /// `/dev/null` cannot be opened.
    pub(crate) fn null() -> Result<Self, Refusal> {
        let open = || File::options().read(true).write(true).open("/dev/null");
        let open = || open().map(OwnedFd::from).map_err(cannot("open /dev/null"));
        Ok(Self { stdin: open()?, stdout: open()?, stderr: open()? })
    }
}

/// What a helper has made, a child of this process.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) pid: i32,
    /// Tells of its end.
    pub(crate) ends: oneshot::Receiver<Exit>,
    /// The master of its terminal.
    pub(crate) master: Option<OwnedFd>,
}

/// Starts helpers.
#[derive(Debug)]
pub(crate) struct Helpers {
    /// The program's name as it was called, and its file.
    name: OsString,
    file: PathBuf,
    exits: Arc<Exits>,
    /// Closes with this process: for whoever is not to go on without it.
    lifeline: (OwnedFd, OwnedFd),
}

impl Helpers {
    /// Of this program, which was called by this name.
    ///
    /// # Errors
    /// A pipe that cannot be made.
    pub(crate) fn new(name: OsString, exits: Arc<Exits>) -> Result<Self, Refusal> {
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        // The same program as this one, also after its file was replaced by a newer one.
        let file = Path::new("/proc/self/exe").to_owned();
        Ok(Self { name, file, exits, lifeline: pipe.map_err(cannot("make a pipe"))? })
    }

    /// The descriptor that [`super::Create::owner`] names.
    pub(crate) fn owner(&self) -> i32 {
        self.lifeline.0.as_raw_fd()
    }

    /// Has something made.
    ///
    /// # Errors
    /// What the helper says.
    pub(crate) async fn make(&self, request: &Request, streams: Streams) -> Result<Made, Refusal> {
        let making = self.exits.making();
        let (pid, master) = self.call(request, streams).await?;
        let pid = pid.ok_or_else(|| Refusal::failed("the helper has made nothing"))?;
        let ends = self.exits.of(pid);
        drop(making);
        Ok(Made { pid, ends, master })
    }

    /// Has something done.
    ///
    /// # Errors
    /// What the helper says.
    pub(crate) async fn do_it(&self, request: &Request) -> Result<(), Refusal> {
        self.call(request, Streams::null()?).await.map(drop)
    }

    async fn call(
        &self,
        request: &Request,
        streams: Streams,
    ) -> Result<(Option<i32>, Option<OwnedFd>), Refusal> {
        let text = serde_json::to_vec(request).map_err(cannot("write a request"))?;
        let file = rustix::fs::memfd_create("request", MemfdFlags::CLOEXEC)
            .map_err(cannot("make a request"))?;
        let file = File::from(file);
        (&file).write_all(&text).map_err(cannot("write a request"))?;
        drop(text);
        let (ours, theirs) = UnixStream::pair().map_err(cannot("make a socket"))?;
        let making = self.exits.making();
        let helper = self.spawn(streams, &file, &theirs)?;
        let ended = self.exits.of(helper);
        drop((file, theirs, making));
        // It waits for its reader in a thread of its own.
        let heard = tokio::task::spawn_blocking(move || hear(&ours)).await;
        let heard = heard.map_err(cannot("hear a helper"))?;
        // What it has made becomes this process's child with its end, so that this comes first.
        let exit = ended.await.ok();
        match heard {
            Ok((Answer::Done { pid, warnings }, master)) => {
                warnings.iter().for_each(log::warn);
                Ok((pid, master))
            }
            Ok((Answer::Refused(refusal), _)) => Err(refusal),
            Err(error) => {
                let code = exit.map_or(255, |exit| exit.code);
                Err(Refusal::half(format!("a helper ended with code {code}: {error}")))
            }
        }
    }

    /// Starts one, with the two ends and the lifeline's. No other program is started meanwhile, which would have them too: all are
    /// started by this process's first thread.
    fn spawn(&self, streams: Streams, request: &File, answer: &UnixStream) -> Result<i32, Refusal> {
        let fds = [request.as_fd(), answer.as_fd(), self.lifeline.0.as_fd()];
        let inherited = |flags| fds.iter().try_for_each(|fd| rustix::io::fcntl_setfd(fd, flags));
        let mut command = Command::new(&self.file);
        command
            .arg0(&self.name)
            .args(["-request", &request.as_raw_fd().to_string()])
            .args(["-answer", &answer.as_raw_fd().to_string(), "helper"])
            .stdin(Stdio::from(streams.stdin))
            .stdout(Stdio::from(streams.stdout))
            .stderr(Stdio::from(streams.stderr));
        let child =
            inherited(FdFlags::empty()).map_err(io::Error::from).and_then(|()| command.spawn());
        let _ = inherited(FdFlags::CLOEXEC);
        let child = child.map_err(cannot("start a helper"))?;
        i32::try_from(child.id()).map_err(cannot("start a helper"))
    }
}

/// Reads an answer to its end.
fn hear(socket: &UnixStream) -> io::Result<(Answer, Option<OwnedFd>)> {
    let (text, master) = handover::receive(socket, MAX_ANSWER)?;
    Ok((serde_json::from_slice(&text)?, master))
}
