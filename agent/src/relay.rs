//! One connection to the monitor and the process's streams, or a connection to a port, behind it: bytes in both directions, half-closes, and no more
//! in hand than one buffer for each direction: a side that does not read makes the other one wait.

use std::{
    cell::Cell,
    os::fd::OwnedFd,
    rc::{Rc, Weak},
};

use bulkhead_protocol::{StreamHello, Token, write_frame};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{SendFlags, Shutdown},
};

use crate::events::Side;

/// Bytes that are read at once, and the most that wait in one direction.
pub(crate) const BUFFER: usize = 64 << 10;
/// Reads in a row before others get their turn.
const TURNS: usize = 16;

/// A relay.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: OwnedFd,
    connected: bool,
    /// Where the monitor's bytes go; gone after either side has ended.
    input: Option<Rc<OwnedFd>>,
    /// Where the monitor's bytes come from; gone at its end.
    output: Option<Rc<OwnedFd>>,
    /// Both are one socket, of which each half ends by itself.
    is_port: bool,
    /// Bytes that have come from there.
    taken: Rc<Cell<u64>>,
    to_process: Backlog,
    to_monitor: Backlog,
}

/// Bytes that were read and could not be written yet.
#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    written: usize,
}

/// What became of a direction.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    /// It waits for one of its sides.
    Waits,
    /// It has had its turn and has more to do.
    More,
    /// The source has ended, and all of it was written.
    Ended,
    /// The destination takes no more.
    Broken,
}

/// What becomes of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It waits for events.
    Wait,
    /// It wants another turn.
    Again,
    /// It has nothing more to do.
    Close,
}

impl Relay {
    /// A relay over a socket that is connecting.
    pub(crate) fn new(
        socket: OwnedFd,
        token: Token,
        input: Option<Rc<OwnedFd>>,
        output: Option<Rc<OwnedFd>>,
    ) -> Self {
        let mut to_monitor = Backlog::default();
        // A Vec takes all that is written, and a hello is no 4 GiB long.
        let _ = write_frame(&mut to_monitor.bytes, &StreamHello { token });
        Self {
            socket,
            connected: false,
            input,
            output,
            is_port: false,
            taken: Rc::default(),
            to_process: Backlog::default(),
            to_monitor,
        }
    }

    /// A relay between a socket that is connecting to the monitor and a connection to a port.
    pub(crate) fn of_port(socket: OwnedFd, token: Token, port: OwnedFd) -> Self {
        let port = Rc::new(port);
        let relay = Self::new(socket, token, Some(Rc::clone(&port)), Some(port));
        Self { is_port: true, ..relay }
    }

    /// Counts what the process writes, as long as somebody asks.
    pub(crate) fn meter(&self) -> Meter {
        let output = self.output.as_ref().map(Rc::downgrade).unwrap_or_default();
        Meter { taken: self.taken.clone(), output }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(crate) fn input(&self) -> Option<&Rc<OwnedFd>> {
        self.input.as_ref()
    }

    pub(crate) fn output(&self) -> Option<&Rc<OwnedFd>> {
        self.output.as_ref()
    }

    /// Does what can be done without waiting. `space` is an empty buffer of [`BUFFER`] bytes.
    pub(crate) fn turn(&mut self, side: Side, flags: EventFlags, space: &mut Vec<u8>) -> Next {
        if !self.connected {
            if side != Side::Socket || !flags.intersects(EventFlags::OUT | EventFlags::ERR) {
                return Next::Wait;
            }
            // If it never came about, the first write says so.
            self.connected = true;
        }
        if side == Side::Input && flags.contains(EventFlags::ERR) {
            self.end_input();
        }
        let input = self.turn_input(space);
        let output = self.turn_output(space);
        if self.input.is_none() && self.output.is_none() && self.to_monitor.is_empty() {
            self.drain(space);
            Next::Close
        } else if input == Flow::More || output == Flow::More {
            Next::Again
        } else {
            Next::Wait
        }
    }

    /// Takes what the monitor has sent for nobody: a Unix socket that is closed with something to read tells the other side
    /// of a reset instead of an end.
    fn drain(&mut self, space: &mut Vec<u8>) {
        // It may be gone, or shut down already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
        loop {
            space.clear();
            match rustix::io::read(&self.socket, rustix::buffer::spare_capacity(space)) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }

    fn turn_input(&mut self, space: &mut Vec<u8>) -> Flow {
        let Some(input) = &self.input else { return Flow::Ended };
        let flow = pump(
            &mut self.to_process,
            space,
            |space| rustix::io::read(&self.socket, rustix::buffer::spare_capacity(space)),
            |bytes| rustix::io::write(input, bytes),
        );
        match flow {
            Flow::Ended => {
                if self.is_port {
                    // It may be gone.
                    let _ = rustix::net::shutdown(input, Shutdown::Write);
                }
                self.input = None;
            }
            Flow::Broken => self.end_input(),
            Flow::Waits | Flow::More => {}
        }
        flow
    }

    /// The process takes no more: the monitor is told.
    fn end_input(&mut self) {
        self.input = None;
        self.to_process = Backlog::default();
        // It may be gone.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
    }

    fn turn_output(&mut self, space: &mut Vec<u8>) -> Flow {
        let flow = pump(
            &mut self.to_monitor,
            space,
            |space| match &self.output {
                // A terminal nobody holds any more.
                Some(output) => {
                    match rustix::io::read(output, rustix::buffer::spare_capacity(space)) {
                        Err(Errno::IO) => Ok(0),
                        Ok(count) => {
                            self.taken.set(self.taken.get().saturating_add(count as u64));
                            Ok(count)
                        }
                        read => read,
                    }
                }
                None => Ok(0),
            },
            |bytes| rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL),
        );
        match flow {
            Flow::Ended if self.output.is_some() => {
                // A terminal ends in both directions.
                let ends = (self.input.as_ref(), self.output.as_ref());
                if let (Some(input), Some(output)) = ends
                    && Rc::ptr_eq(input, output)
                    && !self.is_port
                {
                    self.end_input();
                }
                self.output = None;
                // It may be gone.
                let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
            }
            Flow::Broken => {
                self.output = None;
                self.to_monitor = Backlog::default();
            }
            Flow::Ended | Flow::Waits | Flow::More => {}
        }
        flow
    }
}

/// How much a process has written to a stream.
#[derive(Debug)]
pub(crate) struct Meter {
    taken: Rc<Cell<u64>>,
    output: Weak<OwnedFd>,
}

impl Meter {
    /// Bytes that were read from it, and those that are still in its pipe or terminal.
    pub(crate) fn written(&self) -> u64 {
        let waiting =
            self.output.upgrade().and_then(|output| rustix::io::ioctl_fionread(&*output).ok());
        self.taken.get().saturating_add(waiting.unwrap_or(0))
    }
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Writes until nothing is left (`Ok(true)`) or the destination would block.
    fn flush(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Result<usize, Errno>,
    ) -> Result<bool, Errno> {
        while let Some(bytes) = self.bytes.get(self.written..).filter(|bytes| !bytes.is_empty()) {
            match write(bytes) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        *self = Self::default();
        Ok(true)
    }
}

fn pump(
    backlog: &mut Backlog,
    space: &mut Vec<u8>,
    mut read: impl FnMut(&mut Vec<u8>) -> Result<usize, Errno>,
    mut write: impl FnMut(&[u8]) -> Result<usize, Errno>,
) -> Flow {
    match backlog.flush(&mut write) {
        Ok(true) => {}
        Ok(false) => return Flow::Waits,
        Err(_) => return Flow::Broken,
    }
    for _ in 0..TURNS {
        space.clear();
        match read(space) {
            Ok(0) => return Flow::Ended,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Flow::Waits,
            // A monitor that went away without a half-close has ended, too.
            Err(_) => return Flow::Ended,
        }
        let written = loop {
            match write(space) {
                Ok(count) => break count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break 0,
                Err(_) => return Flow::Broken,
            }
        };
        if let Some(rest) = space.get(written..).filter(|rest| !rest.is_empty()) {
            backlog.bytes.extend_from_slice(rest);
            // Only a destination that said that it would block tells when it does not any more.
            match backlog.flush(&mut write) {
                Ok(true) => {}
                Ok(false) => return Flow::Waits,
                Err(_) => return Flow::Broken,
            }
        }
    }
    Flow::More
}
