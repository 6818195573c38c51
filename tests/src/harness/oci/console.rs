//! The socket of `--console-socket`, and the keyboard's side of the terminal that comes through it.

use std::{
    fs::File,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

use super::super::pty::Master;

/// A listening console socket.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at this path.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("a Unix socket can be made");
        Self { listener, path }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the descriptor that a runtime sends (SCM_RIGHTS).
    #[must_use]
    #[track_caller]
    pub fn receive(&self) -> Master {
        let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
        let ready = poll(&mut waiting, Some(&Duration::from_secs(120).try_into().expect("a time")));
        assert_eq!(ready.expect("poll"), 1, "no runtime connected to the console socket");
        let (stream, _) = self.listener.accept().expect("a connection");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut messages = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 4096];
        let received = recvmsg(
            &stream,
            &mut [IoSliceMut::new(&mut name)],
            &mut messages,
            RecvFlags::CMSG_CLOEXEC,
        );
        received.expect("a message");
        let master: Option<OwnedFd> = messages.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let file = File::from(master.expect("the message carries a descriptor"));
        assert!(
            rustix::pty::ptsname(&file, Vec::new()).is_ok(),
            "it is the master of a pseudo-terminal"
        );
        Master::new(file)
    }
}
