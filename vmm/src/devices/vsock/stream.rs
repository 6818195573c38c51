//! One connection between a port of the guest and a Unix socket: its state, its credit, its bytes.
//!
//! ```text
//! Requested (the host asks) -- RESPONSE --> Connected -- the guest closed, bytes are left --> Flushing
//! (the guest asks, the Unix socket accepts) --> Connected
//! ```
//! Sockets are registered edge-triggered once, so `readable` and `writable` stay true until a call would block.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};

use super::{
    credit::{Credit, HOST_BUFFER},
    packet::{HEADER, Header, Key, Op, WILL_NOT_RECEIVE, WILL_NOT_SEND},
    state::Connection,
};
use crate::devices::virtio::{IoVectors, Slices};

/// The most bytes that one stream sends to the guest before it is another one's turn.
pub(super) const QUANTUM: u32 = 64 << 10;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The host asks the guest for a connection.
    Requested {
        /// The REQUEST is on its way.
        sent: bool,
    },
    /// Both sides agreed.
    Connected,
    /// The guest is done with it; bytes for the Unix socket are left.
    Flushing,
}

/// What to send to the guest next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A packet without data, and its flags.
    Control(Op, u32),
    /// At most so many bytes of data.
    Data(u32),
}

/// What becomes of a stream after a packet of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// The guest closed it in good order.
    Close,
    /// The guest broke the rules: reset it.
    Abort,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) key: Key,
    pub(super) phase: Phase,
    /// It is in the list of streams that have something for the guest.
    pub(super) queued: bool,
    /// The host asked for it.
    by_host: bool,
    socket: OwnedFd,
    credit: Credit,
    backlog: VecDeque<u8>,
    readable: bool,
    writable: bool,
    guest_sends: bool,
    guest_receives: bool,
    host_sends: bool,
    host_receives: bool,
    /// The guest must hear that its request was accepted.
    response_due: bool,
    /// The guest asked for the credit.
    update_due: bool,
    /// The guest was asked for its credit since it had some.
    asked: bool,
    /// The flags of the last SHUTDOWN that was sent.
    told: u32,
    /// The socket knows that the guest sends no more.
    ended: bool,
}

impl Stream {
    /// A connection whose Unix socket is there, asked for by the guest (`Connected`) or by the host (`Requested`).
    pub(super) fn new(key: Key, socket: OwnedFd, phase: Phase) -> Self {
        Self {
            key,
            phase,
            queued: false,
            by_host: phase != Phase::Connected,
            socket,
            credit: Credit::default(),
            backlog: VecDeque::new(),
            readable: true,
            writable: true,
            guest_sends: true,
            guest_receives: true,
            host_sends: true,
            host_receives: true,
            response_due: phase == Phase::Connected,
            update_due: false,
            asked: false,
            told: 0,
            ended: false,
        }
    }

    /// A connection that was saved, with another Unix socket. The guest knows of it.
    pub(super) fn restored(key: Key, socket: OwnedFd, credit: &Credit) -> Self {
        let credit = credit.clone();
        Self { response_due: false, credit, ..Self::new(key, socket, Phase::Connected) }
    }

    /// What is saved of it, or what it is that cannot be saved.
    pub(super) fn save(&self) -> Result<Connection, &'static str> {
        let open = self.guest_sends && self.guest_receives && self.host_sends && self.host_receives;
        if self.by_host {
            Err("there is a connection of the host's")
        } else if !self.backlog.is_empty() {
            Err("bytes of the guest wait")
        } else if self.phase != Phase::Connected || self.response_due || !open {
            Err("a connection begins or ends")
        } else if self.readable || self.queued {
            Err("bytes of the host wait")
        } else {
            Ok(Connection { key: self.key, credit: self.credit.clone() })
        }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Nothing of it is left: the guest is done and every byte was delivered, or cannot be.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Flushing && self.backlog.is_empty()
    }

    /// Takes the credit that any packet of the guest carries.
    pub(super) fn heard(&mut self, header: &Header) {
        self.credit.heard(header.buf_alloc, header.fwd_cnt);
        // An answer that there is no room must not be answered by asking again: a guest says by itself when it has read.
        self.asked &= self.credit.available() == 0;
    }

    /// Takes a packet of the guest; `data` has the header and `header.len` bytes after it.
    pub(super) fn receive(&mut self, header: &Header, data: &Slices<'_>) -> Verdict {
        self.heard(header);
        match (self.phase, header.op) {
            (Phase::Requested { sent: true }, Op::Response) => self.accepted(),
            (Phase::Connected, Op::Data) => self.data(data, header.len),
            (Phase::Connected, Op::Shutdown) => self.guest_shutdown(header.flags),
            (Phase::Connected, Op::CreditUpdate) => Verdict::Keep,
            (Phase::Connected, Op::CreditRequest) => {
                self.update_due = true;
                Verdict::Keep
            }
            _ => Verdict::Abort,
        }
    }

    /// The guest reset the connection. What it had finished sending is still delivered; returns whether something is left.
    pub(super) fn guest_reset(&mut self) -> bool {
        self.phase = Phase::Flushing;
        if self.guest_sends {
            self.backlog = VecDeque::new();
        }
        !self.is_over()
    }

    /// The guest closed the connection in good order; returns whether something is left to deliver.
    pub(super) fn guest_closed(&mut self) -> bool {
        self.phase = Phase::Flushing;
        // What the host sent and the guest will not read: left in the socket, it would turn the host's end of file into an error.
        let mut scrap = [0; 4096];
        while rustix::net::recv(&self.socket, &mut scrap, RecvFlags::DONTWAIT)
            .is_ok_and(|(count, _)| count > 0)
        {}
        !self.is_over()
    }

    /// The Unix socket is ready for something, or `gone`: its other end was closed.
    pub(super) fn host_event(&mut self, readable: bool, writable: bool, gone: bool) {
        self.readable |= readable;
        self.writable |= writable;
        if gone {
            self.host_stops_receiving();
        }
        self.flush();
    }

    /// What to send to the guest now. Data come before the word that they ended.
    pub(super) fn next(&self) -> Option<Next> {
        match self.phase {
            Phase::Requested { sent: false } => Some(Next::Control(Op::Request, 0)),
            Phase::Requested { sent: true } | Phase::Flushing => None,
            Phase::Connected if self.response_due => Some(Next::Control(Op::Response, 0)),
            Phase::Connected => self.next_connected(),
        }
    }

    fn next_connected(&self) -> Option<Next> {
        let wants_data = self.readable && self.host_sends && self.guest_receives;
        let room = self.credit.available().min(QUANTUM);
        if wants_data && room > 0 {
            return Some(Next::Data(room));
        }
        let done = if self.host_sends { 0 } else { WILL_NOT_SEND }
            | if self.host_receives { 0 } else { WILL_NOT_RECEIVE };
        if done & !self.told != 0 {
            return Some(Next::Control(Op::Shutdown, done));
        }
        if self.update_due || (self.guest_sends && self.credit.is_news()) {
            return Some(Next::Control(Op::CreditUpdate, 0));
        }
        (wants_data && !self.asked).then_some(Next::Control(Op::CreditRequest, 0))
    }

    /// The header of a packet that is sent now, and everything that sending it means.
    pub(super) fn send(&mut self, cid: u64, op: Op, flags: u32, len: u32) -> Header {
        match op {
            Op::Request => self.phase = Phase::Requested { sent: true },
            Op::Response => self.response_due = false,
            Op::Shutdown => self.told = flags,
            Op::CreditRequest => self.asked = true,
            _ => {}
        }
        self.update_due = false;
        self.credit.sent(len);
        let (buf_alloc, fwd_cnt) = self.credit.announce();
        Header { len, flags, buf_alloc, fwd_cnt, ..Header::to_guest(cid, self.key, op) }
    }

    /// Reads from the Unix socket into guest memory; 0 when there is nothing now or will be nothing any more.
    pub(super) fn read(&mut self, vectors: &IoVectors<'_>) -> u32 {
        let vectors = vectors.as_slice();
        loop {
            let count = libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: the vectors are mapped guest memory for as long as `IoVectors` lives, and there are `count` of them. The
            // kernel writes to it as the guest may at any time; no Rust reference to it exists. The descriptor is open.
            let result = unsafe { libc::readv(self.socket.as_raw_fd(), vectors.as_ptr(), count) };
            if let Ok(count) = u32::try_from(result) {
                if count == 0 {
                    self.host_sends = false;
                }
                return count;
            }
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return 0;
                }
                // The other end was closed before it had read everything.
                _ => {
                    self.host_sends = false;
                    self.host_stops_receiving();
                    return 0;
                }
            }
        }
    }

    /// The guest accepted the host's request.
    fn accepted(&mut self) -> Verdict {
        self.phase = Phase::Connected;
        let line = format!("OK {}\n", self.key.host);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::send(&self.socket, line.as_bytes(), flags) {
            Ok(count) if count == line.len() => Verdict::Keep,
            // It is the first line on an empty socket, so the other end is gone.
            _ => Verdict::Abort,
        }
    }

    fn data(&mut self, data: &Slices<'_>, length: u32) -> Verdict {
        let length_left = HOST_BUFFER as usize - self.backlog.len();
        let length = length as usize;
        if !self.guest_sends || length > length_left {
            return Verdict::Abort;
        }
        let mut done = 0;
        if self.backlog.is_empty() && self.host_receives && self.writable {
            done = self.write_slices(data, length);
        }
        self.count_forwarded(done);
        if done < length && self.host_receives {
            self.hold(data, done, length - done);
        } else {
            self.count_forwarded(length - done);
        }
        Verdict::Keep
    }

    /// Writes straight from guest memory; returns how many bytes the socket took.
    fn write_slices(&mut self, data: &Slices<'_>, length: usize) -> usize {
        let mut done = 0;
        while done < length {
            let vectors = IoVectors::new(&mut data.range(HEADER + done, length - done));
            let slice = vectors.as_slice();
            // SAFETY: all zeros is a message without address, buffers or control data.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = slice.as_ptr().cast_mut();
            message.msg_iovlen = slice.len();
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            // SAFETY: the vectors are mapped guest memory for as long as `vectors` lives; sendmsg only reads it and the array. The
            // descriptor is open.
            let result =
                unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, flags) };
            match usize::try_from(result) {
                Ok(count) => done += count,
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => {
                        self.writable = false;
                        break;
                    }
                    _ => {
                        self.host_stops_receiving();
                        break;
                    }
                },
            }
        }
        done
    }

    /// Keeps bytes that the socket did not take.
    fn hold(&mut self, data: &Slices<'_>, done: usize, length: usize) {
        let mut chunk = [0; 4096];
        for slice in data.range(HEADER + done, length) {
            let mut at = 0;
            while at < slice.len() {
                let Ok(rest) = slice.offset(at) else { break };
                let count = rest.copy_to(&mut chunk[..]).min(rest.len());
                self.backlog.extend(&chunk[..count]);
                at += count;
            }
        }
    }

    /// Gives the socket what is held for it, and its end when that is all.
    fn flush(&mut self) {
        while self.writable && !self.backlog.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.socket, self.backlog.as_slices().0, flags) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.count_forwarded(count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(_) => self.host_stops_receiving(),
            }
        }
        if self.backlog.is_empty() {
            // An idle stream holds no memory for the next rush.
            self.backlog = VecDeque::new();
            self.end_writing();
        }
    }

    fn guest_shutdown(&mut self, flags: u32) -> Verdict {
        if flags & WILL_NOT_SEND != 0 {
            self.guest_sends = false;
        }
        if flags & WILL_NOT_RECEIVE != 0 {
            self.guest_receives = false;
            // An error means that the other end is gone.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
        }
        if self.backlog.is_empty() {
            self.end_writing();
        }
        if self.guest_sends || self.guest_receives { Verdict::Keep } else { Verdict::Close }
    }

    /// Tells the socket that the guest will send no more, once everything before was taken.
    fn end_writing(&mut self) {
        if !self.guest_sends && self.host_receives && !self.ended {
            self.ended = true;
            // An error means that the other end is gone.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Nobody reads what the guest sends: it is taken and dropped, and the guest is told.
    fn host_stops_receiving(&mut self) {
        self.host_receives = false;
        self.writable = false;
        self.count_forwarded(self.backlog.len());
        self.backlog = VecDeque::new();
    }

    fn count_forwarded(&mut self, bytes: usize) {
        // Never more than the buffer.
        self.credit.forwarded(u32::try_from(bytes).unwrap_or(HOST_BUFFER));
    }
}
