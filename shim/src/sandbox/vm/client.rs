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
        self.send(ask).map_err(gone)?;
        match self.answer().map_err(gone)? {
            Answer::Done(reply) => Ok(reply),
            Answer::Failed(failure) => Err(refusal(failure)),
            other => Err(SandboxError::Failed(format!("the monitor answered {other:?}"))),
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

/// The connection failed.
pub(super) fn gone(error: FrameError) -> SandboxError {
    match error {
        FrameError::Closed => SandboxError::State("container not running".into()),
        // It ended with a request that it had not read yet.
        FrameError::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ) =>
        {
            SandboxError::State("container not running".into())
        }
        FrameError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            SandboxError::Failed("the container's monitor does not answer".into())
        }
        error => SandboxError::Failed(format!("the container's monitor cannot be asked: {error}")),
    }
}
