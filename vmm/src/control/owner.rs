//! The process that started this one and configured it. Its end of the socket is the machine's life: when it closes, the
//! machine ends. Also what turns the machine's notices into messages to it.

use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::{LineError, LineSocket, answer};
use crate::{
    api::{End, FromVmm, MAX_LINE, Mark, ToVmm, VmConfig},
    machine::Machine,
    notices::Notices,
};

/// Why there is no owner to talk to.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// Not a socket.
    #[error(
        "file descriptor {0} is not a connected Unix socket; --owner-fd is for the program that starts this one, people use --config"
    )]
    NotASocket(RawFd),
    /// The first message did not arrive.
    #[error("the owner sent no configuration")]
    Line(#[from] LineError),
    /// The first message is another one.
    #[error("the owner's first message is not a configuration")]
    Unexpected,
}

/// The owner's connection.
#[derive(Debug)]
pub struct Owner {
    socket: LineSocket,
}

impl Owner {
    /// Takes over the inherited descriptor `fd`.
    ///
    /// # Errors
    /// [`OwnerError::NotASocket`].
    pub fn adopt(fd: RawFd) -> Result<Self, OwnerError> {
        /// The size of an int.
        const LENGTH: libc::socklen_t = 4;
        let (mut kind, mut length): (libc::c_int, _) = (0, LENGTH);
        // SAFETY: both pointers are to variables of ours with the sizes that SO_DOMAIN has; a wrong descriptor is an error.
        let asked = unsafe {
            libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_DOMAIN,
                (&raw mut kind).cast(),
                &raw mut length,
            )
        };
        if asked != 0 || kind != libc::AF_UNIX {
            return Err(OwnerError::NotASocket(fd));
        }
        // SAFETY: the descriptor is open, was inherited for this use, and this is called once, before anything else uses it.
        let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self { socket: LineSocket::new(stream, MAX_LINE) })
    }

    /// Waits for the configuration.
    ///
    /// # Errors
    /// [`OwnerError`].
    pub fn configuration(&mut self) -> Result<VmConfig, OwnerError> {
        match self.socket.wait_for_message()? {
            ToVmm::Configure(config) => Ok(*config),
            ToVmm::Request(_) => Err(OwnerError::Unexpected),
        }
    }

    /// From here on the connection belongs to the event loop.
    ///
    /// # Errors
    /// That of the system call.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking()
    }

    /// Tells how the machine ended.
    pub fn finish(&mut self, end: &End) {
        self.socket.finish(&FromVmm::Ended(end.clone()));
    }
}

/// Carries the machine's notices to its owner, and the owner's requests to the machine.
pub struct Supervisor {
    machine: Arc<Machine>,
    notices: Arc<Notices>,
    owner: Option<Owner>,
    /// Called for each mark, where a person watches.
    watch: Option<fn(Mark, u64, u64)>,
}

impl Supervisor {
    /// For `machine`, with an owner or without.
    #[must_use]
    pub fn new(
        machine: Arc<Machine>,
        notices: Arc<Notices>,
        owner: Option<Owner>,
        watch: Option<fn(Mark, u64, u64)>,
    ) -> Self {
        Self { machine, notices, owner, watch }
    }

    /// Tells what was not told yet, and how the machine ended.
    pub fn finish(&mut self, end: &End) {
        self.tell_marks();
        if let Some(mut owner) = self.owner.take() {
            owner.finish(end);
        }
    }

    fn tell_marks(&mut self) {
        for mark in self.notices.take_marks() {
            if let (Some(watch), FromVmm::Mark { mark, monotonic_ns, instructions }) =
                (self.watch, &mark)
            {
                watch(*mark, *monotonic_ns, *instructions);
            }
            if let Some(owner) = &mut self.owner
                && owner.socket.send(&mark).is_err()
            {
                self.notices.end(End::Stopped);
            }
        }
    }

    fn serve_owner(&mut self, events: EventSet) -> Result<(), LineError> {
        let Some(owner) = &mut self.owner else { return Ok(()) };
        let gone = EventSet::HANG_UP | EventSet::ERROR;
        if events.contains(EventSet::OUT) {
            owner.socket.flush()?;
        }
        if events.contains(EventSet::IN) {
            owner.socket.fill()?;
        } else if events.intersects(gone) {
            return Err(LineError::Closed);
        }
        while let Some(message) = owner.socket.next_message()? {
            let reply = match message {
                ToVmm::Request(request) => answer(&self.machine, request, &mut owner.socket),
                ToVmm::Configure(_) => FromVmm::Response {
                    id: 0,
                    result: Err("the machine is configured already".to_owned()),
                },
            };
            owner.socket.send(&reply)?;
        }
        Ok(())
    }
}

impl MutEventSubscriber for Supervisor {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.notices.wake().as_raw_fd() {
            self.tell_marks();
        } else if self.serve_owner(events.event_set()).is_err() {
            self.notices.end(End::Stopped);
            return;
        }
        if let Some(owner) = &self.owner {
            let watched = ops.modify(Events::new(&owner.socket, owner.socket.interest()));
            if watched.is_err() {
                self.notices.end(End::Failed("cannot watch the owner's socket".to_owned()));
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        // Requests that arrived together with the configuration.
        if self.serve_owner(EventSet::empty()).is_err() {
            self.notices.end(End::Stopped);
        }
        let mut watched = ops.add(Events::new(self.notices.wake(), EventSet::IN));
        if let Some(owner) = &self.owner {
            watched = watched.and(ops.add(Events::new(&owner.socket, owner.socket.interest())));
        }
        if let Err(error) = watched {
            self.notices.end(End::Failed(format!("cannot watch the machine's events: {error}")));
        }
    }
}
