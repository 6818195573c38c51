//! The monitor's socket and who is connected to it. No client can make the monitor wait: one that does not read what it
//! is sent is dropped.

use std::{
    collections::BTreeMap,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use rustix::{event::epoll::EventFlags, net::sockopt::socket_peercred, process::geteuid};

use super::{
    execs::ExecId,
    fault::{Fault, to},
    message::{Answer, Ask, MAX_FDS, MAX_FRAME, SOCKET},
    poll::{Poll, Source},
    sockets,
    wire::Wire,
};

/// More at once are refused; each exec is one.
const MAX_CLIENTS: usize = 512;
/// The most that may wait for a client to read it.
const MOST_UNSENT: usize = 1 << 20;

/// Names a client; never used twice.
pub(super) type ClientId = u32;

/// The socket and its clients.
#[derive(Debug)]
pub(super) struct Clients {
    listener: UnixListener,
    clients: BTreeMap<ClientId, Client>,
    last: ClientId,
}

#[derive(Debug)]
struct Client {
    wire: Wire,
    /// It waits for an answer.
    busy: bool,
    /// It wants to hear of the memory limit's kills.
    events: bool,
    /// The process that belongs to it.
    exec: Option<ExecId>,
    /// Which container it asks about, if not about the machine's own.
    container: Option<String>,
    /// Its process.
    pid: i32,
}

/// What came of a client's turn.
#[derive(Debug)]
pub(super) enum Turn {
    /// It asks for something.
    Asks(Ask),
    /// Nothing to do.
    Waits,
    /// It is gone.
    Gone,
}

impl Clients {
    /// Listens in the state directory.
    pub(super) fn listen(directory: &Path, poll: &Poll) -> Result<Self, Fault> {
        let listener =
            sockets::listen(directory, SOCKET).map_err(to(format!("listen at {SOCKET}")))?;
        poll.add(&listener, Source::Listener, EventFlags::IN)?;
        Ok(Self { listener, clients: BTreeMap::new(), last: 0 })
    }

    /// Takes a new client, if it is of this user.
    pub(super) fn accept(&mut self, poll: &Poll) {
        let taken = poll.accept(&self.listener, Source::Listener, UnixListener::accept);
        let Some((socket, _)) = taken else { return };
        let user = geteuid();
        let Ok(peer) = socket_peercred(&socket) else { return };
        let known = peer.uid == user || peer.uid.is_root();
        if !known || self.clients.len() >= MAX_CLIENTS {
            return;
        }
        let Ok(wire) = Wire::new(socket, MAX_FRAME, MOST_UNSENT) else { return };
        let wire = wire.taking_fds(MAX_FDS);
        self.last = self.last.wrapping_add(1);
        if poll.add(wire.socket(), Source::Client(self.last), wait_for(&wire)).is_ok() {
            let pid = peer.pid.as_raw_pid();
            let client =
                Client { wire, busy: false, events: false, exec: None, container: None, pid };
            self.clients.insert(self.last, client);
        }
    }

    /// Reads and writes what can be.
    pub(super) fn turn(&mut self, id: ClientId, flags: EventFlags, poll: &Poll) -> Turn {
        let Some(client) = self.clients.get_mut(&id) else { return Turn::Waits };
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        // Also while it waits for an answer: nobody is left to hear it.
        let mut done = Ok(());
        if flags.contains(EventFlags::OUT) {
            done = client.wire.flush();
        }
        if done.is_ok() && flags.contains(EventFlags::IN) {
            done = client.wire.fill();
        }
        if done.is_err() || flags.intersects(gone) {
            return Turn::Gone;
        }
        poll.change(client.wire.socket(), Source::Client(id), wait_for(&client.wire));
        self.next(id)
    }

    /// The client's next request.
    pub(super) fn next(&mut self, id: ClientId) -> Turn {
        let Some(client) = self.clients.get_mut(&id) else { return Turn::Waits };
        match client.wire.next::<Ask>() {
            Ok(None) => Turn::Waits,
            // One at a time; these have no answer.
            Ok(Some(ask)) => {
                let silent = matches!(ask, Ask::Signal(_) | Ask::Resize(_) | Ask::At(_));
                if client.busy && !silent {
                    return Turn::Gone;
                }
                client.busy |= !silent;
                Turn::Asks(ask)
            }
            Err(_) => Turn::Gone,
        }
    }

    /// Answers; false when the client is to be dropped.
    #[must_use]
    pub(super) fn answer(
        &mut self,
        id: ClientId,
        answer: &Answer,
        fds: &[BorrowedFd<'_>],
        poll: &Poll,
    ) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return true };
        client.busy = false;
        let sent = if fds.is_empty() {
            client.wire.send(answer)
        } else {
            client.wire.send_with(answer, fds)
        };
        poll.change(client.wire.socket(), Source::Client(id), wait_for(&client.wire));
        sent.is_ok()
    }

    /// Forgets a client; the process that belonged to it.
    pub(super) fn drop(&mut self, id: ClientId, poll: &Poll) -> Option<ExecId> {
        let client = self.clients.remove(&id)?;
        poll.remove(client.wire.socket());
        client.exec
    }

    /// A process belongs to the client from now on.
    pub(super) fn give(&mut self, id: ClientId, exec: ExecId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.exec = Some(exec);
        }
    }

    /// The client's process.
    pub(super) fn exec(&self, id: ClientId) -> Option<ExecId> {
        self.clients.get(&id)?.exec
    }

    /// The client asks about this container from now on.
    pub(super) fn point_at(&mut self, id: ClientId, container: String) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.container = Some(container);
        }
    }

    /// Which container the client asks about, if it has said so.
    pub(super) fn container(&self, id: ClientId) -> Option<&str> {
        self.clients.get(&id)?.container.as_deref()
    }

    /// The client's process.
    pub(super) fn pid(&self, id: ClientId) -> Option<i32> {
        self.clients.get(&id).map(|client| client.pid)
    }

    /// The descriptors that the client has sent.
    pub(super) fn take_fds(&mut self, id: ClientId) -> Vec<OwnedFd> {
        self.clients.get_mut(&id).map(|client| client.wire.take_fds()).unwrap_or_default()
    }

    /// The client hears of events from now on.
    pub(super) fn listen_to_events(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.events = true;
            client.busy = false;
        }
    }

    /// Those who hear of a container's events; `None`: of the machine's own.
    pub(super) fn listeners(&self, container: Option<&str>) -> Vec<ClientId> {
        let listens = |client: &Client| client.events && client.container.as_deref() == container;
        self.clients.iter().filter(|(_, client)| listens(client)).map(|(id, _)| *id).collect()
    }
}

fn wait_for(wire: &Wire) -> EventFlags {
    wire.interest() | EventFlags::RDHUP
}
