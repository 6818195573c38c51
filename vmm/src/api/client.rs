//! The owner's side: starts a VMM, configures it, listens to it.

use std::{
    io::{self, BufRead, BufReader, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{FromVmm, MAX_LINE, Request, RequestKind, ToVmm, VmConfig, send};

/// Why a VMM could not be started or heard.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The socket failed.
    #[error("the connection to the VMM failed")]
    Io(#[source] io::Error),
    /// A line that is no message.
    #[error("the VMM sent a line that cannot be understood")]
    Malformed(#[from] serde_json::Error),
    /// The VMM went away without saying how the machine ended.
    #[error("the VMM is gone")]
    Gone,
}

/// A VMM that this process owns. Dropping it ends the machine.
#[derive(Debug)]
pub struct Vmm {
    child: Child,
    socket: UnixStream,
    next_id: u64,
}

/// What a VMM says to its owner.
#[derive(Debug)]
pub struct Messages(BufReader<UnixStream>);

impl Vmm {
    /// Starts `program` and gives it `config`. Its standard output and error are those given.
    ///
    /// # Errors
    /// [`ClientError::Spawn`] or [`ClientError::Io`]. A VMM that dies at once is none: it has no messages.
    pub fn spawn(
        program: &Path,
        config: &VmConfig,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<(Self, Messages), ClientError> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .args(["--owner-fd", "0"])
            .stdin(OwnedFd::from(theirs))
            .stdout(stdout)
            .stderr(stderr)
            // A terminal's Ctrl-C is for the owner to act on, not for the machine.
            .process_group(0)
            .spawn()
            .map_err(|source| ClientError::Spawn {
                program: program.display().to_string(),
                source,
            })?;
        let messages = Messages(BufReader::new(socket.try_clone()?));
        let mut vmm = Self { child, socket, next_id: 1 };
        match vmm.send(&ToVmm::Configure(Box::new(config.clone())), &[]) {
            // It has died. That its messages end says so, as of one that dies later.
            Err(ClientError::Gone) => {}
            sent => sent?,
        }
        Ok((vmm, messages))
    }

    /// The VMM's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request and returns its number; the response is among the [`Messages`].
    ///
    /// # Errors
    /// [`ClientError::Io`] or [`ClientError::Gone`].
    pub fn request(&mut self, kind: RequestKind) -> Result<u64, ClientError> {
        self.request_with(kind, &[])
    }

    /// The same with the descriptors that go along ([`RequestKind::Insert`]). They stay the caller's.
    ///
    /// # Errors
    /// [`ClientError::Io`] or [`ClientError::Gone`].
    pub fn request_with(
        &mut self,
        kind: RequestKind,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<u64, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&ToVmm::Request(Request { id, kind }), descriptors)?;
        Ok(id)
    }

    fn send(&mut self, message: &ToVmm, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        Ok(send(&self.socket, &line, descriptors)?)
    }
}

impl From<io::Error> for ClientError {
    /// A socket whose other end was closed with something unread is reset (unix(7)): the VMM is gone then, too.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

impl Messages {
    /// Waits for the VMM's next message.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the VMM closed the socket; the others as they say.
    pub fn next_message(&mut self) -> Result<FromVmm, ClientError> {
        let mut line = Vec::new();
        (&mut self.0).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(ClientError::Gone);
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// True when a message, or a part of one, was read already, of which the descriptor tells nothing.
    #[must_use]
    pub fn is_buffered(&self) -> bool {
        !self.0.buffer().is_empty()
    }
}

/// Readable when there are messages, beside those that [`Messages::is_buffered`] tells of.
impl AsFd for Messages {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // An error means that it ended already; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_dies_at_once_is_gone() {
        // Longer than what a socket holds for nobody.
        let config = serde_json::json!({
            "kernel": "/k", "memory_mib": 64, "cmdline": "x".repeat(4 << 20),
        });
        let config = serde_json::from_value(config).unwrap();
        let spawned = Vmm::spawn(Path::new("true"), &config, Stdio::null(), Stdio::null());
        let (_vmm, mut messages) = spawned.unwrap();
        assert!(matches!(messages.next_message(), Err(ClientError::Gone)));
    }
}
