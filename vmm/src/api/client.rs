//! The owner's side: starts a VMM, configures it, listens to it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use super::{FromVmm, MAX_LINE, Request, RequestKind, ToVmm, VmConfig};

/// Why a VMM could not be started or heard.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The program could not be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The socket failed.
    #[error("the connection to the VMM failed: {0}")]
    Io(#[from] io::Error),
    /// A line that is no message.
    #[error("the VMM sent a line that cannot be understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The VMM went away without saying how the machine ended.
    #[error("the VMM is gone")]
    Gone,
}

/// A VMM that this process owns. Dropping it ends the machine.
#[derive(Debug)]
pub struct Vmm {
    child: Child,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    next_id: u64,
}

impl Vmm {
    /// Starts `program` and gives it `config`. Its standard output and error are those given.
    ///
    /// # Errors
    /// [`ClientError::Spawn`] or [`ClientError::Io`].
    pub fn spawn(
        program: &Path,
        config: &VmConfig,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Self, ClientError> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .args(["--owner-fd", "0"])
            .stdin(OwnedFd::from(theirs))
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(|source| ClientError::Spawn {
                program: program.display().to_string(),
                source,
            })?;
        let reader = BufReader::new(ours.try_clone()?);
        let mut vmm = Self { child, reader, writer: ours, next_id: 1 };
        vmm.send(&ToVmm::Configure(Box::new(config.clone())))?;
        Ok(vmm)
    }

    /// The VMM's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A second handle on the owner's socket, to send requests while another thread waits in [`Vmm::next_message`].
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn handle(&self) -> Result<UnixStream, ClientError> {
        Ok(self.writer.try_clone()?)
    }

    /// Sends a request and returns its number; the response comes from [`Vmm::next_message`].
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn request(&mut self, kind: RequestKind) -> Result<u64, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&ToVmm::Request(Request { id, kind }))?;
        Ok(id)
    }

    fn send(&mut self, message: &ToVmm) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.writer.write_all(&line)?;
        Ok(())
    }

    /// Waits for the VMM's next message.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the VMM closed the socket; the others as they say.
    pub fn next_message(&mut self) -> Result<FromVmm, ClientError> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(ClientError::Gone);
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn wait(&mut self) -> Result<ExitStatus, ClientError> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Errors mean that it ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
