//! The agent: its control connection, the requests that it owes an answer, and the streams that it opens.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use bulkhead_protocol::{
    CONTROL_PORT, Call, MAX_FROM_AGENT, Message, Request, STREAM_PORT, StreamHello, Token,
};
use rustix::event::epoll::EventFlags;
use serde_json::Value;

use super::{
    fault::{Fault, to},
    poll::{Poll, Source},
    sockets,
    wire::{Wire, WireError},
};

/// More than this waiting for the agent makes further requests fail.
const MOST_UNSENT: usize = 2 * bulkhead_protocol::MAX_TO_AGENT;
/// Streams that have not said which they are; more are closed.
const MAX_HELLOS: usize = 64;
/// How long a stream may take to say which it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest hello.
const MAX_HELLO: usize = 256;

/// A request of the monitor, with JSON where the specification's types would be.
pub(super) type GuestCall = Call<Value, Value>;

/// The sockets and what came of them.
#[derive(Debug)]
pub(super) struct Guest {
    control: UnixListener,
    streams: UnixListener,
    agent: Option<Wire>,
    seq: u64,
    hellos: BTreeMap<u32, Hello>,
    last_hello: u32,
}

#[derive(Debug)]
struct Hello {
    stream: UnixStream,
    bytes: Vec<u8>,
    until: Instant,
}

impl Guest {
    /// Listens where the machine's sockets with this name in `directory` will connect to.
    pub(super) fn listen(directory: &Path, name: &str, poll: &Poll) -> Result<Self, Fault> {
        let listen = |port: u32| {
            let name = format!("{name}_{port}");
            sockets::listen(directory, &name).map_err(to(format!("listen at {name}")))
        };
        let (control, streams) = (listen(CONTROL_PORT)?, listen(STREAM_PORT)?);
        poll.add(&control, Source::Control, EventFlags::IN)?;
        poll.add(&streams, Source::Streams, EventFlags::IN)?;
        Ok(Self { control, streams, agent: None, seq: 0, hellos: BTreeMap::new(), last_hello: 0 })
    }

    /// Takes the agent's connection, the first one; true when this was it.
    pub(super) fn accept(&mut self, poll: &Poll) -> io::Result<bool> {
        let taken = poll.accept(&self.control, Source::Control, UnixListener::accept);
        let Some((stream, _)) = taken else { return Ok(false) };
        let first = self.agent.is_none();
        if first {
            let wire = Wire::new(stream, MAX_FROM_AGENT, MOST_UNSENT)?;
            poll.add(wire.socket(), Source::Agent, EventFlags::IN)?;
            self.agent = Some(wire);
            poll.remove(&self.control);
        }
        Ok(first)
    }

    /// Sends a request; its number comes back in the reply.
    pub(super) fn ask(&mut self, call: GuestCall, poll: &Poll) -> Result<u64, WireError> {
        let Some(agent) = self.agent.as_mut() else {
            return Err(bulkhead_protocol::FrameError::Closed.into());
        };
        if !agent.has_room() {
            return Err(WireError::Full);
        }
        self.seq += 1;
        agent.send(&Request { seq: self.seq, call })?;
        poll.change(agent.socket(), Source::Agent, agent.interest());
        Ok(self.seq)
    }

    /// Reads and writes what can be.
    pub(super) fn turn(&mut self, flags: EventFlags, poll: &Poll) -> Result<(), WireError> {
        let Some(agent) = self.agent.as_mut() else { return Ok(()) };
        if flags.contains(EventFlags::OUT) {
            agent.flush()?;
            poll.change(agent.socket(), Source::Agent, agent.interest());
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            agent.fill()?;
        }
        Ok(())
    }

    /// The next message of those that were read.
    pub(super) fn next(&mut self) -> Result<Option<Message>, WireError> {
        self.agent.as_mut().map_or(Ok(None), Wire::next)
    }

    /// Forgets the connection.
    pub(super) fn hang_up(&mut self, poll: &Poll) {
        if let Some(agent) = self.agent.take() {
            poll.remove(agent.socket());
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.agent.is_some()
    }

    /// Takes a new stream, which has yet to say which it is.
    pub(super) fn accept_stream(&mut self, poll: &Poll) {
        let taken = poll.accept(&self.streams, Source::Streams, UnixListener::accept);
        let Some((stream, _)) = taken else { return };
        if self.hellos.len() >= MAX_HELLOS || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.last_hello = self.last_hello.wrapping_add(1);
        let id = self.last_hello;
        if poll.add(&stream, Source::Hello(id), EventFlags::IN).is_ok() {
            let until = Instant::now() + HELLO_TIMEOUT;
            self.hellos.insert(id, Hello { stream, bytes: Vec::new(), until });
        }
    }

    /// Reads a stream's hello. Once it is whole, the stream and its token.
    pub(super) fn hello(&mut self, id: u32, poll: &Poll) -> Option<(Token, UnixStream)> {
        let hello = self.hellos.get_mut(&id)?;
        let token = match hello.read() {
            Ok(None) => return None,
            Ok(Some(token)) => Some(token),
            Err(_) => None,
        };
        let Hello { stream, .. } = self.hellos.remove(&id)?;
        poll.remove(&stream);
        // Whoever copies it waits for it.
        stream.set_nonblocking(false).ok()?;
        token.map(|token| (token, stream))
    }

    /// Closes the streams that took too long; when the next one's time is over.
    pub(super) fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        // Closing takes it out of the epoll instance.
        self.hellos.retain(|_, hello| hello.until > now);
        self.hellos.values().map(|hello| hello.until).min()
    }
}

impl Hello {
    /// Reads not one byte beyond the hello: the stream's own bytes follow.
    fn read(&mut self) -> io::Result<Option<Token>> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            let want = match self.bytes.first_chunk::<4>() {
                None => 4,
                Some(head) => 4 + u32::from_le_bytes(*head) as usize,
            };
            if want > MAX_HELLO {
                return Err(invalid());
            }
            if want > 4 && self.bytes.len() == want {
                let hello: StreamHello =
                    serde_json::from_slice(self.bytes.get(4..).unwrap_or_default())?;
                return Ok(Some(hello.token));
            }
            if want == 4 && self.bytes.len() == 4 {
                return Err(invalid());
            }
            let mut space = [0; MAX_HELLO];
            let space = space.get_mut(..want - self.bytes.len()).unwrap_or_default();
            match self.stream.read(space) {
                Ok(0) => return Err(invalid()),
                Ok(length) => {
                    self.bytes.extend_from_slice(space.get(..length).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bulkhead_protocol::write_frame;

    use super::*;

    fn hello(bytes: &[u8]) -> (Hello, UnixStream) {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        theirs.write_all(bytes).unwrap();
        (Hello { stream, bytes: Vec::new(), until: Instant::now() }, theirs)
    }

    #[test]
    fn a_hello_is_read_and_nothing_behind_it() {
        let mut wire = Vec::new();
        write_frame(&mut wire, &StreamHello { token: 7 }).unwrap();
        wire.extend_from_slice(b"data");
        let (mut one, _theirs) = hello(&wire);
        assert_eq!(one.read().unwrap(), Some(7));
        let mut rest = [0; 16];
        assert_eq!(one.stream.read(&mut rest).unwrap(), 4);
        let (mut half, mut theirs) = hello(&wire[..6]);
        assert_eq!(half.read().unwrap(), None);
        theirs.write_all(&wire[6..]).unwrap();
        assert_eq!(half.read().unwrap(), Some(7));
    }

    #[test]
    fn what_is_no_hello_is_an_error() {
        for bytes in [&[0xff, 0xff, 0, 0][..], &[0, 0, 0, 0], &[2, 0, 0, 0, b'{', b'x']] {
            assert!(hello(bytes).0.read().is_err(), "{bytes:?}");
        }
        let (mut ended, theirs) = hello(&[1]);
        drop(theirs);
        assert!(ended.read().is_err());
    }
}
