//! Bytes with descriptors over a Unix socket (`SCM_RIGHTS`, unix(7)), as many as are wanted.

use std::{
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

/// The most descriptors of one message (`SCM_MAX_FD` of the kernel); more come with the bytes that follow.
const AT_ONCE: usize = 253;

/// Sends bytes, which are no fewer than the descriptors, over a socket that blocks; the descriptors go with the first of them and stay the caller's.
///
/// # Errors
/// Those of the system calls.
pub fn send(
    mut socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut rest = bytes;
    for descriptors in descriptors.chunks(AT_ONCE) {
        let (first, others) = rest.split_at_checked(1).ok_or(io::ErrorKind::InvalidInput)?;
        send_with(socket, first, descriptors)?;
        rest = others;
    }
    socket.write_all(rest)
}

fn send_with(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// Receives what is there, as much as `space` takes, and the descriptors that came with it. 0 bytes: the end.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`]; `EMFILE` when this process may not have so many descriptors; those of the system call.
pub fn receive(
    socket: &UnixStream,
    space: &mut [u8],
    descriptors: &mut impl Extend<OwnedFd>,
) -> io::Result<usize> {
    let mut ancillary = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut ancillary);
    let received = loop {
        let data = &mut [IoSliceMut::new(space)];
        match recvmsg(socket, data, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE.into());
    }
    Ok(received.bytes)
}
