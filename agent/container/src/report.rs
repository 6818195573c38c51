//! What a new process and its maker say to each other until the program runs: a pair of sockets that execve closes.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};

use crate::error::{Error, Kind, at};

const READY: u8 = b'R';
const FAILED: u8 = b'F';
const MADE: u8 = b'M';
const HOOKS: u8 = b'H';
const GO: u8 = b'G';
const NOT_EXECUTED: u8 = b'X';
/// The standard streams.
const MAX_FILES: usize = 3;
/// An error's text is one line; more of it is cut.
const MAX_TEXT: usize = 4096;

/// What the maker hears.
#[derive(Debug)]
pub(crate) enum Report {
    /// All is ready for the program; with a terminal, its master.
    Ready(Option<OwnedFd>),
    /// A forerunner has made the process that this is about; its descriptor.
    Made(OwnedFd),
    /// The moment for the hooks that its maker runs; it waits.
    Hooks,
    /// A step failed.
    Failed(Error),
    /// execve failed.
    NotExecuted(Errno),
    /// The socket was closed: by execve, or by the process's end.
    Closed,
}

/// The maker's end and the process's end.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(at("make", "a socket pair"))
}

/// The maker waits for the next report.
pub(crate) fn receive(from: &OwnedFd) -> Result<Report, Error> {
    let mut data = [0; 2 + MAX_TEXT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        let slices = &mut [IoSliceMut::new(&mut data)];
        match rustix::net::recvmsg(from, slices, &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(Report::Closed),
            received => break received.map_err(at("hear from", "the new process"))?.bytes,
        }
    };
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(match data.get(..received).unwrap_or_default() {
        [READY, ..] => Report::Ready(descriptor),
        [MADE] => descriptor.map_or(Report::Closed, Report::Made),
        [HOOKS] => Report::Hooks,
        [FAILED, kind, text @ ..] => Report::Failed(Error::Child {
            kind: Kind::from_byte(*kind),
            message: String::from_utf8_lossy(text).into_owned(),
        }),
        [NOT_EXECUTED, a, b, c, d] => {
            Report::NotExecuted(Errno::from_raw_os_error(i32::from_le_bytes([*a, *b, *c, *d])))
        }
        _ => Report::Closed,
    })
}

/// The maker lets the process go on.
pub(crate) fn go(to: &OwnedFd) -> Result<(), Error> {
    send(to.as_fd(), &[GO], None).map_err(at("wake", "the new process"))
}

/// The maker lets a process go on that was made ahead, with descriptors for it, at most [`MAX_FILES`].
pub(crate) fn go_with(to: &OwnedFd, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
    if files.is_empty() {
        return go(to);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let sent = if ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        let data = &[IoSlice::new(&[GO])];
        rustix::net::sendmsg(to, data, &mut ancillary, SendFlags::NOSIGNAL).map(drop)
    } else {
        Err(Errno::NOBUFS)
    };
    sent.map_err(at("wake", "the process that was made ahead"))
}

/// The process that was made ahead waits to be let on. `None`: its maker is gone.
pub(crate) fn wait_with(from: BorrowedFd<'_>) -> Option<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    loop {
        let slices = &mut [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(from, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) if received.bytes == 1 => break,
            Err(Errno::INTR) => {}
            _ => return None,
        }
    }
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Some(files.flatten().collect())
}

/// The process waits to be let on. False: its maker is gone.
pub(crate) fn wait(from: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    loop {
        match rustix::io::read(from, &mut byte) {
            Ok(1) => return true,
            Err(Errno::INTR) => {}
            _ => return false,
        }
    }
}

/// The process is ready.
pub(crate) fn ready(to: BorrowedFd<'_>, console: Option<BorrowedFd<'_>>) -> Result<(), Error> {
    send(to, &[READY], console).map_err(at("report to", "the agent"))
}

/// The forerunner has made the process.
pub(crate) fn made(to: BorrowedFd<'_>, process: BorrowedFd<'_>) -> Result<(), Error> {
    send(to, &[MADE], Some(process)).map_err(at("report to", "the maker"))
}

/// The process has come to the moment for its maker's hooks.
pub(crate) fn hooks(to: BorrowedFd<'_>) -> Result<(), Error> {
    send(to, &[HOOKS], None).map_err(at("report to", "the maker"))
}

/// The process failed.
pub(crate) fn failed(to: BorrowedFd<'_>, error: &Error) {
    let mut data = vec![FAILED, error.kind().to_byte()];
    data.extend(error.to_string().bytes().take(MAX_TEXT));
    // Nobody to tell when this fails; the end of the process is noticed.
    let _ = send(to, &data, None);
}

/// execve failed. Allocates nothing.
pub(crate) fn not_executed(to: BorrowedFd<'_>, errno: Errno) {
    let [a, b, c, d] = errno.raw_os_error().to_le_bytes();
    // As above.
    let _ = rustix::io::write(to, &[NOT_EXECUTED, a, b, c, d]);
}

fn send(to: BorrowedFd<'_>, data: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let Some(fd) = fd else {
        return rustix::net::send(to, data, SendFlags::NOSIGNAL).map(drop);
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    rustix::net::sendmsg(to, &[IoSlice::new(data)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}
