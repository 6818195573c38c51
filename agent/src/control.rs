//! The control connection: requests in, messages out.

use std::os::fd::OwnedFd;

use bulkhead_container::spec::{Process, Resources, Spec};
use bulkhead_protocol::{
    Failure, FailureKind, FrameError, MAX_TO_AGENT, Message, Reader, Reply, write_frame,
};
use rustix::{
    io::Errno,
    net::{SendFlags, sockopt},
};
use serde::Deserialize;

use crate::fault::{Fault, to};

/// A request as the agent reads it.
pub(crate) type Request = bulkhead_protocol::Request<Spec, Process, Resources>;

/// Bytes that a read asks for: small requests come whole, big ones in several.
const READ: usize = 16 << 10;
/// While more than this waits to be sent, no requests are read.
const MAX_UNSENT: usize = 256 << 10;

/// The control connection.
#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
    connected: bool,
    reader: Reader,
    unsent: Vec<u8>,
}

/// A frame's request, or the answer to one that cannot be understood.
type Parsed = Result<Request, (u64, Failure)>;

/// The part of a malformed request by which it can be answered.
#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

impl Control {
    /// Over a socket that may still be connecting.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, connected: false, reader: Reader::new(MAX_TO_AGENT), unsent: Vec::new() }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Reads what is there. False when the monitor has closed the connection.
    ///
    /// # Errors
    /// [`Fault::System`] when it never came about.
    pub(crate) fn fill(&mut self) -> Result<bool, Fault> {
        if !self.connected {
            match sockopt::socket_error(&self.socket) {
                Ok(Ok(())) => self.connected = true,
                Ok(Err(errno)) | Err(errno) => return Err(to("connect to the monitor")(errno)),
            }
        }
        while self.unsent.len() <= MAX_UNSENT {
            let buffer = self.reader.buffer();
            buffer.reserve(READ);
            let room = buffer.capacity() - buffer.len();
            match rustix::io::read(&self.socket, rustix::buffer::spare_capacity(buffer)) {
                Ok(0) => return Ok(false),
                // All that was there, unless it was as much as there was room for.
                Ok(count) if count < room => return Ok(true),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(true),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next whole request.
    ///
    /// # Errors
    /// [`Fault::Protocol`] for a frame that is too large or has no number to answer to.
    pub(crate) fn next_request(&mut self) -> Result<Option<Parsed>, Fault> {
        let parsed = self.reader.next_frame(|body| {
            serde_json::from_slice::<Request>(body).map_err(|error| {
                (serde_json::from_slice::<Numbered>(body).map(|numbered| numbered.seq), error)
            })
        })?;
        Ok(match parsed {
            None => None,
            Some(Ok(request)) => Some(Ok(request)),
            Some(Err((Err(_), error))) => return Err(FrameError::Malformed(error).into()),
            Some(Err((Ok(seq), error))) => {
                let message = format!("the agent cannot understand the request: {error}");
                Some(Err((seq, Failure { kind: FailureKind::Invalid, message })))
            }
        })
    }

    pub(crate) fn reply(&mut self, seq: u64, result: Result<Reply, Failure>) {
        self.put(&Message::Reply { seq, result });
    }

    /// Adds a message to those that wait to be sent.
    pub(crate) fn put(&mut self, message: &Message) {
        // A Vec takes all that is written, and no message of the agent is 4 GiB long.
        let _ = write_frame(&mut self.unsent, message);
    }

    /// Sends what can be sent now. False when the monitor is gone.
    pub(crate) fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match rustix::net::send(&self.socket, &self.unsent, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.unsent.drain(..count);
                }
                Err(Errno::INTR) => {}
                // Still connecting, or the monitor does not read.
                Err(Errno::AGAIN | Errno::NOTCONN | Errno::INPROGRESS) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Sends the rest before the agent ends, as long as the monitor reads it.
    pub(crate) fn finish(&mut self) {
        // A last message is worth waiting for, and a monitor that does not read closes the connection in the end.
        if rustix::io::ioctl_fionbio(&self.socket, false).is_ok() {
            self.flush();
        }
    }
}
