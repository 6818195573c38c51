//! A connection of frames that never waits, with bounds on what it holds in both directions.

use std::{
    io::{self, IoSlice, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use bulkhead_protocol::{FrameError, Reader, write_frame};
use bulkhead_vmm::api::receive;
use rustix::{
    event::epoll::EventFlags,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use serde::{Serialize, de::DeserializeOwned};

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// It failed, or carried no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other side does not read.
    #[error("it does not read what it is sent")]
    Full,
    /// The other side sends descriptors that nobody wants.
    #[error("it sends too many descriptors")]
    Fds,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: UnixStream,
    reader: Reader,
    unsent: Vec<u8>,
    /// The most that may wait to be sent.
    most: usize,
    /// Descriptors that came, and how many may.
    fds: Vec<OwnedFd>,
    most_fds: usize,
}

impl Wire {
    /// Takes frames of at most `limit` bytes, and keeps at most `most` to be sent.
    pub(crate) fn new(socket: UnixStream, limit: usize, most: usize) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (reader, unsent, fds) = (Reader::new(limit), Vec::new(), Vec::new());
        Ok(Self { socket, reader, unsent, most, fds, most_fds: 0 })
    }

    /// Takes so many descriptors, too.
    pub(crate) fn taking_fds(self, most_fds: usize) -> Self {
        Self { most_fds, ..self }
    }

    /// The descriptors that came so far.
    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what is there.
    pub(crate) fn fill(&mut self) -> Result<(), WireError> {
        let mut chunk = [0; 8 << 10];
        let length = match receive(&self.socket, &mut chunk, &mut self.fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            received => received.map_err(FrameError::Io)?,
        };
        if self.fds.len() > self.most_fds {
            return Err(WireError::Fds);
        }
        if length == 0 {
            return Err(FrameError::Closed.into());
        }
        self.reader.buffer().extend_from_slice(chunk.get(..length).unwrap_or_default());
        Ok(())
    }

    /// The next whole message that was read.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let next = self.reader.next_message()?;
        let buffer = self.reader.buffer();
        if buffer.is_empty() {
            // A big frame's memory is not kept.
            *buffer = Vec::new();
        }
        Ok(next)
    }

    /// Sends a message, now or when the other side takes it.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<(), WireError> {
        write_frame(&mut self.unsent, message)?;
        self.flush()
    }

    /// Sends a message whose first byte carries descriptors; the other side has taken all before it.
    pub(crate) fn send_with(
        &mut self,
        message: &impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        self.flush()?;
        if !self.unsent.is_empty() {
            return Err(WireError::Full);
        }
        let mut frame = Vec::new();
        write_frame(&mut frame, message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(WireError::Full);
        }
        let data = [IoSlice::new(&frame)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = rustix::net::sendmsg(&self.socket, &data, &mut control, flags)
            .map_err(|errno| FrameError::Io(errno.into()))?;
        self.unsent.extend_from_slice(frame.get(sent..).unwrap_or_default());
        Ok(())
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self) -> Result<(), WireError> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(length) => {
                    self.unsent.drain(..length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if self.unsent.len() > self.most {
                        Err(WireError::Full)
                    } else {
                        Ok(())
                    };
                }
                Err(error) => return Err(FrameError::Io(error).into()),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }

    /// Room for so many more bytes.
    pub(crate) fn has_room(&self) -> bool {
        self.unsent.len() < self.most
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> EventFlags {
        let out = if self.unsent.is_empty() { EventFlags::empty() } else { EventFlags::OUT };
        EventFlags::IN | out
    }
}

/// The most descriptors of one message: an exec's two streams.
const MOST_FDS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(most: usize) -> (Wire, Wire) {
        let (a, b) = UnixStream::pair().unwrap();
        (Wire::new(a, 1 << 20, most).unwrap(), Wire::new(b, 1 << 20, most).unwrap())
    }

    #[test]
    fn messages_arrive_in_order_and_whole() {
        let (mut a, mut b) = pair(4 << 20);
        let big = "x".repeat(600_000);
        a.send(&"one").unwrap();
        a.send(&big).unwrap();
        assert!(a.interest().contains(EventFlags::OUT));
        let mut got: Vec<String> = Vec::new();
        while got.len() < 2 {
            a.flush().unwrap();
            b.fill().unwrap();
            got.extend(b.next().unwrap());
        }
        assert_eq!(got, ["one".to_owned(), big]);
        assert!(!a.interest().contains(EventFlags::OUT));
        drop(a);
        // A child of another test has the socket, too, until it runs its program.
        let end = loop {
            if let Err(error) = b.fill() {
                break error;
            }
        };
        assert!(matches!(end, WireError::Frame(FrameError::Closed)));
    }

    #[test]
    fn descriptors_are_taken_where_they_are_wanted() {
        let file = std::fs::File::open("/dev/null").unwrap();
        for most in [0, 1, 2] {
            let (mut a, b) = pair(1 << 20);
            let mut b = b.taking_fds(most);
            a.send_with(&"word", &[file.as_fd(), file.as_fd()]).unwrap();
            let filled = b.fill();
            assert_eq!(filled.is_ok(), most == 2, "{filled:?}");
            assert_eq!(b.take_fds().len(), 2);
        }
    }

    #[test]
    fn who_does_not_read_is_found_out() {
        let (mut a, _b) = pair(64 << 10);
        let words = "x".repeat(1000);
        let refused = (0..10_000).find_map(|_| a.send(&words).err());
        assert!(matches!(refused, Some(WireError::Full)));
    }
}
