//! Bytes over a Unix socket, and beside the first of them a descriptor (unix(7), `SCM_RIGHTS`).

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Sends all bytes, of which there is at least one.
///
/// # Errors
/// The other end is gone.
pub(crate) fn send(
    mut socket: &UnixStream,
    bytes: &[u8],
    beside: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let (first, rest) = bytes.split_at_checked(1).ok_or(io::ErrorKind::InvalidInput)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &beside
        && !ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)))
    {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(first)], &mut ancillary, SendFlags::NOSIGNAL)?;
    socket.write_all(rest)
}

/// Receives what was sent until the other end is closed, at most this much of it.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`]: nothing was sent.
pub(crate) fn receive(
    socket: impl AsFd + Read,
    most: u64,
) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut first = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let slices = &mut [IoSliceMut::new(&mut first)];
    let got =
        rustix::io::retry_on_intr(|| rustix::net::recvmsg(&socket, slices, &mut ancillary, flags))?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let beside = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let mut bytes = first.to_vec();
    socket.take(most).read_to_end(&mut bytes)?;
    Ok((bytes, beside))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_descriptor_goes_beside_the_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&ours, b"words", Some(writer.as_fd())).unwrap();
        drop((ours, writer));
        let (bytes, beside) = receive(&theirs, 100).unwrap();
        assert_eq!(bytes, b"words");
        File::from(beside.unwrap()).write_all(b"x").unwrap();
        let mut got = [0; 1];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"x");
    }

    #[test]
    fn nothing_is_no_message() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(send(&ours, b"", None).is_err());
        drop(ours);
        let error = receive(&theirs, 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
