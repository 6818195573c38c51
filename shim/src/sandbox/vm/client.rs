//! A monitor's client.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use bulkhead_protocol::{FrameError, Reader, Reply, write_frame};
use bulkhead_vmm::api::{receive, send};

use super::{SandboxError, create::refusal};
use crate::monitor::{
    message::{Answer, Ask, MAX_FRAME, SOCKET},
    sockets,
};

/// A connection to a monitor.
#[derive(Debug)]
pub(super) struct Client {
    socket: UnixStream,
    reader: Reader,
    fds: Vec<OwnedFd>,
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Heard {
    Reply(Reply),
    /// Nothing in time.
    Nothing,
    /// The monitor has ended without a word.
    End,
}

impl Heard {
    /// The reply, for who cannot do without one.
    pub(super) fn reply(self) -> Result<Reply, SandboxError> {
        match self {
            Self::Reply(reply) => Ok(reply),
            Self::Nothing => Err(silent()),
            Self::End => Err(ended()),
        }
    }
}

impl Client {
    /// Connects to the monitor of a state directory. An answer that takes longer than `patience` is an error.
    pub(super) fn connect(dir: &Path, patience: Duration) -> io::Result<Self> {
        let socket = sockets::connect(dir, SOCKET)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Self { socket, reader: Reader::new(MAX_FRAME), fds: Vec::new() })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for as long as it takes from now on.
    pub(super) fn wait_for_ever(&self) -> io::Result<()> {
        self.socket.set_read_timeout(None)
    }

    /// Sends a request.
    pub(super) fn send(&mut self, ask: &Ask) -> Result<(), FrameError> {
        write_frame(&mut self.socket, ask)
    }

    /// Sends a request with descriptors.
    pub(super) fn send_with(
        &mut self,
        ask: &Ask,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), FrameError> {
        let mut frame = Vec::new();
        write_frame(&mut frame, ask)?;
        Ok(send(&self.socket, &frame, fds)?)
    }

    /// Waits for an answer.
    pub(super) fn answer(&mut self) -> Result<Answer, FrameError> {
        loop {
            if let Some(answer) = self.reader.next_message()? {
                return Ok(answer);
            }
            if !self.fill()? {
                return Err(FrameError::Closed);
            }
        }
    }

    /// The descriptors that came with the answers.
    pub(super) fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Asks for what the agent replies to.
    pub(super) fn ask(&mut self, ask: &Ask) -> Result<Reply, SandboxError> {
        self.hear(ask)?.reply()
    }

    /// The same for who can do without a reply.
    pub(super) fn hear(&mut self, ask: &Ask) -> Result<Heard, SandboxError> {
        let answer = self.send(ask).and_then(|()| self.answer());
        match answer {
            Ok(Answer::Done(reply)) => Ok(Heard::Reply(reply)),
            Ok(Answer::Failed(failure)) => Err(refusal(failure)),
            Ok(other) => Err(SandboxError::Failed(format!("the monitor answered {other:?}"))),
            Err(error) if has_ended(&error) => Ok(Heard::End),
            Err(error) if is_silent(&error) => Ok(Heard::Nothing),
            Err(error) => Err(gone(error)),
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4 << 10];
        let length =
            receive(&self.socket, &mut chunk, &mut self.fds).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                    _ => error,
                }
            })?;
        self.reader.buffer().extend_from_slice(chunk.get(..length).unwrap_or_default());
        Ok(length > 0)
    }
}

/// The monitor has closed the connection, perhaps with a request that it had not read yet.
fn has_ended(error: &FrameError) -> bool {
    match error {
        FrameError::Closed => true,
        FrameError::Io(error) => {
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        }
        _ => false,
    }
}

/// It has said nothing in time.
fn is_silent(error: &FrameError) -> bool {
    matches!(error, FrameError::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

fn ended() -> SandboxError {
    SandboxError::State("container not running".into())
}

fn silent() -> SandboxError {
    SandboxError::Failed("the container's machine does not answer".into())
}

/// The connection failed.
pub(super) fn gone(error: FrameError) -> SandboxError {
    match error {
        error if has_ended(&error) => ended(),
        error if is_silent(&error) => silent(),
        error => SandboxError::Failed(format!("the container's monitor cannot be asked: {error}")),
    }
}
