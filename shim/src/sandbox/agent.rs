//! The monitor's side of the agent's control connection. Nothing that comes over it is trusted.

use std::{io, net::Shutdown, os::unix::net::UnixStream, sync::mpsc::Sender, thread};

use bulkhead_protocol::{
    Call, FrameError, MAX_FROM_AGENT, Message, Request, read_frame, write_frame,
};

use super::Event;

/// Why a request could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The connection failed.
    #[error("the agent cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// The request could not be sent.
    #[error("the agent cannot be asked: {0}")]
    Frame(#[from] FrameError),
}

/// A connected agent.
#[derive(Debug)]
pub struct Agent {
    connection: UnixStream,
    last_seq: u64,
}

impl Agent {
    /// Takes the connection over: what the agent says arrives in `events`.
    ///
    /// # Errors
    /// [`AgentError::Io`].
    pub fn new(connection: UnixStream, events: Sender<Event>) -> Result<Self, AgentError> {
        let mut reader = connection.try_clone()?;
        thread::spawn(move || {
            loop {
                match read_frame::<Message>(&mut reader, MAX_FROM_AGENT) {
                    Ok(message) => {
                        if events.send(Event::Agent(message)).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        let _ = events.send(Event::AgentGone(error.to_string()));
                        return;
                    }
                }
            }
        });
        Ok(Self { connection, last_seq: 0 })
    }

    /// Sends a request and returns its number, which comes back in the reply.
    ///
    /// # Errors
    /// [`AgentError::Frame`].
    pub fn send(&mut self, call: Call) -> Result<u64, AgentError> {
        self.last_seq += 1;
        write_frame(&mut self.connection, &Request { seq: self.last_seq, call })?;
        Ok(self.last_seq)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The thread that listens holds the connection too.
        let _ = self.connection.shutdown(Shutdown::Both);
    }
}
