//! Those who are attached to the container, or wait for its end.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use super::frames::{Decoder, Frame, FromKeeper, Hello, INPUT_WINDOW, ToKeeper};

/// With more than this on its way to a client, nothing more is read from the container, which then waits.
const BACKLOG: usize = 256 << 10;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    /// Tells it from others.
    pub(super) number: u64,
    /// The command that started this keeper.
    pub(super) primary: bool,
    /// The connection, which does not block.
    pub(super) socket: UnixStream,
    hello: Option<Hello>,
    decoder: Decoder,
    pending: Vec<u8>,
    /// Input that it gave and that the container has not taken.
    untaken: usize,
    gone: bool,
}

impl Client {
    pub(super) fn new(number: u64, socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            number,
            primary: false,
            socket,
            hello: None,
            decoder: Decoder::default(),
            pending: Vec::new(),
            untaken: 0,
            gone: false,
        })
    }

    /// The command that started this keeper, which has said what it wants.
    pub(super) fn primary(socket: UnixStream, hello: Hello) -> io::Result<Self> {
        let client = Self::new(0, socket)?;
        Ok(Self { primary: true, hello: Some(hello), ..client })
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(super) fn wants_output(&self) -> bool {
        self.hello.is_some_and(|hello| hello.output)
    }

    pub(super) fn gives_input(&self) -> bool {
        self.hello.is_some_and(|hello| hello.input)
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.gone && !self.pending.is_empty()
    }

    pub(super) fn is_slow(&self) -> bool {
        !self.gone && self.pending.len() > BACKLOG
    }

    /// Sends what can be sent now; the rest when it can be.
    pub(super) fn send(&mut self, frame: &FromKeeper) {
        if self.gone {
            return;
        }
        self.pending.extend_from_slice(&frame.encode());
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        let mut sent = 0;
        while let Some(rest) = self.pending.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        self.pending.drain(..sent);
    }

    /// Reads what it says.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Vec<ToKeeper> {
        match self.socket.read(buffer) {
            Ok(0) => self.gone = true,
            Ok(length) => self.decoder.extend(buffer.get(..length).unwrap_or_default()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(_) => self.gone = true,
        }
        let mut frames = Vec::new();
        loop {
            match self.decoder.next_frame() {
                Ok(Some(ToKeeper::Hello(hello))) if self.hello.is_none() => {
                    self.hello = Some(hello)
                }
                Ok(Some(ToKeeper::Input(bytes))) => {
                    self.untaken += bytes.len();
                    frames.push(ToKeeper::Input(bytes));
                }
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        // Whoever does not wait for the container to take his input would fill this process's memory.
        self.gone |= self.untaken > INPUT_WINDOW;
        frames
    }

    /// The container took so much of its input.
    pub(super) fn taken(&mut self, count: usize) {
        self.untaken = self.untaken.saturating_sub(count);
        self.send(&FromKeeper::Taken(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}
