//! A Unix socket that carries one JSON object a line, with bounds on what it holds in both directions.

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use event_manager::EventSet;
use serde::{Serialize, de::DeserializeOwned};

use crate::api::{MAX_DESCRIPTORS, receive};

const CHUNK: usize = 4096;
/// How long the last words may take to a peer that does not read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The peer closed it.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// A line is longer than its receiver takes.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// More descriptors came than are kept.
    #[error("more than {MAX_DESCRIPTORS} descriptors came that no request has taken")]
    Descriptors,
    /// A line that is no message.
    #[error("a line cannot be understood")]
    Malformed(#[from] serde_json::Error),
}

/// The socket and what waits to be taken or sent.
#[derive(Debug)]
pub struct LineSocket {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    limit: usize,
    /// Descriptors that came with bytes, in their order.
    descriptors: VecDeque<OwnedFd>,
}

impl LineSocket {
    /// Takes lines of at most `limit` bytes from `stream`, in whatever mode of blocking it is.
    #[must_use]
    pub fn new(stream: UnixStream, limit: usize) -> Self {
        let descriptors = VecDeque::new();
        Self { stream, input: Vec::new(), output: Vec::new(), limit, descriptors }
    }

    /// From here on, no call waits.
    ///
    /// # Errors
    /// That of the system call.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.stream.set_nonblocking(true)
    }

    /// Waits for one message; for a socket that blocks.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn wait_for_message<T: DeserializeOwned>(&mut self) -> Result<T, LineError> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(message);
            }
            self.fill()?;
        }
    }

    /// Reads what is there, one chunk of it.
    ///
    /// # Errors
    /// [`LineError::Closed`] at the end, [`LineError::Descriptors`], [`LineError::Io`].
    pub fn fill(&mut self) -> Result<(), LineError> {
        let mut chunk = [0; CHUNK];
        let received = match receive(&self.stream, &mut chunk, &mut self.descriptors) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            received => received?,
        };
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(LineError::Descriptors);
        }
        if received == 0 {
            return Err(LineError::Closed);
        }
        self.input.extend_from_slice(chunk.get(..received).unwrap_or_default());
        Ok(())
    }

    /// The next `count` descriptors of those that came, or as many as there are.
    pub fn take_descriptors(&mut self, count: usize) -> Vec<OwnedFd> {
        self.descriptors.drain(..count.min(self.descriptors.len())).collect()
    }

    /// Takes the next whole message; `None` when more must be read, or when the peer has to take its last answer first.
    ///
    /// # Errors
    /// [`LineError::TooLong`] or [`LineError::Malformed`].
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LineError> {
        if !self.output.is_empty() {
            return Ok(None);
        }
        let Some(end) = self.input.iter().position(|&byte| byte == b'\n') else {
            return if self.input.len() > self.limit {
                Err(LineError::TooLong(self.limit))
            } else {
                Ok(None)
            };
        };
        if end > self.limit {
            return Err(LineError::TooLong(self.limit));
        }
        let line: Vec<u8> = self.input.drain(..=end).collect();
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Sends a message, or keeps what the peer does not take yet.
    ///
    /// # Errors
    /// [`LineError::Io`] when the peer is gone.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), LineError> {
        serde_json::to_writer(&mut self.output, message)?;
        self.output.push(b'\n');
        self.flush()
    }

    /// Sends what was kept.
    ///
    /// # Errors
    /// [`LineError::Io`] when the peer is gone.
    pub fn flush(&mut self) -> Result<(), LineError> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(LineError::Closed),
                Ok(length) => {
                    self.output.drain(..length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output = Vec::new();
        Ok(())
    }

    /// Sends the last message and waits a moment for the peer to take it. A peer that is gone misses it.
    pub fn finish(&mut self, message: &impl Serialize) {
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.set_write_timeout(Some(LAST_WORDS));
        let _ = self.send(message);
    }

    /// What to wait for: while something is kept, only that it can be sent.
    #[must_use]
    pub fn interest(&self) -> EventSet {
        if self.output.is_empty() { EventSet::IN } else { EventSet::OUT }
    }
}

impl AsRawFd for LineSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsFd};

    use super::*;
    use crate::api::send;

    fn pair(limit: usize) -> (UnixStream, LineSocket) {
        let (peer, ours) = UnixStream::pair().unwrap();
        let socket = LineSocket::new(ours, limit);
        socket.set_nonblocking().unwrap();
        (peer, socket)
    }

    #[test]
    fn lines_arrive_whole_whatever_their_pieces() {
        let (mut peer, mut socket) = pair(64);
        peer.write_all(b"\"on").unwrap();
        socket.fill().unwrap();
        assert_eq!(socket.next_message::<String>().unwrap(), None);
        peer.write_all(b"e\"\n\"two\"\n").unwrap();
        socket.fill().unwrap();
        assert_eq!(socket.next_message::<String>().unwrap().as_deref(), Some("one"));
        assert_eq!(socket.next_message::<String>().unwrap().as_deref(), Some("two"));
        drop(peer);
        assert!(matches!(socket.fill(), Err(LineError::Closed)));
    }

    #[test]
    fn descriptors_come_with_their_lines() {
        let (peer, mut socket) = pair(4096);
        let files: Vec<_> = (0..600).map(|_| tempfile::tempfile().unwrap()).collect();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send(&peer, b"\"word\"\n", &borrowed).unwrap();
        assert_eq!(socket.wait_for_message::<String>().unwrap(), "word");
        assert_eq!(socket.take_descriptors(2).len(), 2);
        assert_eq!(socket.take_descriptors(usize::MAX).len(), 598);
        // More than anybody needs.
        let refused = (0..3).find_map(|_| {
            send(&peer, b"\"word\"\n", &borrowed).unwrap();
            (0..3).find_map(|_| socket.fill().err())
        });
        assert!(matches!(refused, Some(LineError::Descriptors)));
    }

    #[test]
    fn a_line_without_end_is_refused_at_its_limit() {
        let (mut peer, mut socket) = pair(64);
        peer.write_all(&[b'x'; 65]).unwrap();
        socket.fill().unwrap();
        assert!(matches!(socket.next_message::<String>(), Err(LineError::TooLong(64))));
    }

    #[test]
    fn a_peer_that_does_not_read_is_not_served_until_it_does() {
        let (mut peer, mut socket) = pair(64);
        let long = "x".repeat(1 << 20);
        socket.send(&long).unwrap();
        assert!(socket.interest().contains(EventSet::OUT));
        peer.write_all(b"\"more\"\n").unwrap();
        socket.fill().unwrap();
        assert_eq!(socket.next_message::<String>().unwrap(), None);
        let mut taken = vec![0; 1 << 16];
        let mut total = 0;
        while total < long.len() + 3 {
            total += peer.read(&mut taken).unwrap();
            socket.flush().unwrap();
        }
        assert_eq!(socket.next_message::<String>().unwrap().as_deref(), Some("more"));
    }
}
