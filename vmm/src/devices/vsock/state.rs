//! What is saved of the socket device: its connections, which a device in another machine makes anew on the host's side while the guest
//! keeps them.
//!
//! Only connections that the guest asked for are kept, and only while nothing is under way: no bytes that one side sent and the other
//! has not got, no beginning or end that one side does not know of yet. Connections that the host asked for, and those of the host
//! that have not said yet where they want to, are its own: the former make the device busy, the latter are left out.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{
    credit::Credit,
    from_host::{FIRST_PORT, PORTS},
    host,
    packet::Key,
    running::{Engine, Entry},
    stream::Stream,
    table::MAX_CONNECTIONS,
};
use crate::{
    devices::virtio::{QueueError, RestoreError, SaveError, Version},
    memory::GuestMemory,
};

/// How often both sides are looked at before the device counts as busy.
const ROUNDS: usize = 64;

/// The socket device as its driver knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// Of this type.
    pub version: Version<1>,
    /// The guest's context id, which it keeps.
    pub cid: u64,
    pub(super) connections: Vec<Connection>,
    /// Where to look for the next free port for a host's connection.
    pub(super) next_port: u32,
}

/// A connection that the guest asked for and the host accepted, at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connection {
    pub(super) key: Key,
    pub(super) credit: Credit,
}

impl VsockState {
    /// Of a device without connections.
    pub(super) fn new(cid: u64) -> Self {
        Self { version: Version, cid, connections: Vec::new(), next_port: FIRST_PORT }
    }

    /// Whether a device whose guest has the context id `cid` can go on from this.
    pub(super) fn check(&self, cid: u64) -> Result<(), RestoreError> {
        let device = "vsock";
        if self.cid != cid {
            let (saved, here) = (self.cid.to_string(), cid.to_string());
            return Err(RestoreError::Differs { device, what: "context id", saved, here });
        }
        let impossible = |what, value| Err(RestoreError::Impossible { device, what, value });
        if self.connections.len() > MAX_CONNECTIONS {
            return impossible("number of connections", self.connections.len() as u64);
        }
        if !PORTS.contains(&self.next_port) {
            return impossible("next port", self.next_port.into());
        }
        let mut keys = HashSet::new();
        match self.connections.iter().find(|connection| !keys.insert(connection.key)) {
            Some(twice) => impossible("second connection of a port", twice.key.guest.into()),
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Takes and gives until nothing is under way, and says what there is then.
    pub(super) fn save(&mut self) -> Result<VsockState, SaveError> {
        let busy = |why| SaveError::Busy { device: "vsock", why };
        if !self.turns.is_empty() || !self.resets.is_empty() {
            return Err(busy("the guest gives no buffers for what it is to be sent".to_owned()));
        }
        let mut state = VsockState::new(self.cid);
        state.next_port = self.next_port;
        for entry in self.table.entries() {
            let Entry::Stream(stream) = entry else { continue };
            let Key { host, guest } = stream.key;
            let place =
                |what| format!("{what} between the guest's port {guest} and the host's {host}");
            state.connections.push(stream.save().map_err(|what| busy(place(what)))?);
        }
        Ok(state)
    }

    /// Takes and gives as long as there is something.
    pub(super) fn settle(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        for _ in 0..ROUNDS {
            let before = self.counts.packets.get();
            let looked = self.look_at_host();
            self.take_from_guest(memory)?;
            self.give_to_guest(memory)?;
            let quiet = !looked && self.turns.is_empty() && self.resets.is_empty();
            if quiet && self.counts.packets.get() == before {
                break;
            }
        }
        Ok(())
    }

    /// Makes the connections of another device anew. The guest gets a reset of those that the host does not accept at once.
    pub(super) fn restore(&mut self, state: &VsockState) {
        self.next_port = state.next_port;
        for Connection { key, credit } in &state.connections {
            let socket = host::connect(&self.listener.place.port(key.host));
            let joined =
                socket.and_then(|socket| self.join(Stream::restored(*key, socket, credit)));
            if joined.is_err() {
                self.refuse(*key);
            }
        }
    }
}
