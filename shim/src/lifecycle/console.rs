//! Hands a terminal's master to whoever holds it from now on (conmon, containerd's shim), over a Unix socket.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};

use super::error::LifecycleError;

/// Sends the descriptor to the socket, with a byte of text as runc does.
///
/// # Errors
/// [`LifecycleError::Console`].
pub fn send(socket: &Path, master: impl AsFd) -> Result<(), LifecycleError> {
    connect(socket)
        .and_then(|stream| send_over(&stream, master.as_fd()))
        .map_err(|source| LifecycleError::Console { path: socket.into(), source })
}

/// A path of any length: more than 107 bytes do not fit into an address.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    match UnixStream::connect(socket) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
        connected => return connected,
    }
    let name = socket.file_name().ok_or(io::ErrorKind::NotFound)?;
    let parent = socket.parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{number}")).join(name))
}

fn send_over(stream: &UnixStream, master: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    rustix::net::sendmsg(
        stream,
        &[IoSlice::new(b"/dev/ptmx")],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::IoSliceMut, os::unix::net::UnixListener};

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

    use super::*;

    #[test]
    fn the_descriptor_arrives_whatever_the_length_of_the_path() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["short".to_owned(), "long".repeat(30)] {
            let below = dir.path().join(name);
            std::fs::create_dir(&below).unwrap();
            let fd = File::open(&below).unwrap();
            let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
            let listener = UnixListener::bind(format!("/proc/self/fd/{number}/s")).unwrap();
            send(&below.join("s"), File::open("/dev/null").unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut text = [0; 64];
            let slices = &mut [IoSliceMut::new(&mut text)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let got = rustix::net::recvmsg(&stream, slices, &mut ancillary, flags).unwrap();
            assert!(got.bytes > 0);
            assert!(matches!(ancillary.drain().next(), Some(RecvAncillaryMessage::ScmRights(_))));
        }
    }
}
