//! What the host's sockets say: new connections, their greetings, and what became ready.

use std::ops::Range;

use rustix::event::epoll::EventFlags;

use super::{
    host::{Greeting, Readiness, greeting},
    packet::Key,
    running::{Engine, Entry},
    stream::{Phase, Stream},
    table::{MAX_CONNECTIONS, Token},
};

/// The first port for the host's connections.
pub(super) const FIRST_PORT: u32 = 1 << 30;
/// All of them.
pub(super) const PORTS: Range<u32> = FIRST_PORT..2 * FIRST_PORT;

impl Engine {
    /// Looks at what became ready; false when nothing did.
    pub(super) fn look_at_host(&mut self) -> bool {
        let mut looked = false;
        for readiness in self.watch.look() {
            looked = true;
            match readiness.token {
                Token::LISTENER => self.acceptable = true,
                Token::TIMER => self.expire(),
                token => self.ready(token, readiness),
            }
        }
        looked
    }

    /// Takes the connections that wait on the listening socket, as long as there is room for them.
    pub(super) fn accept(&mut self) {
        while self.acceptable && !self.table.is_full() {
            // None waits, or the host is short of descriptors: then the next event tries again.
            let Some(socket) = self.watch.accept() else {
                self.acceptable = false;
                return;
            };
            let Some(token) = self.table.reserve() else { return };
            if self.watch.add(&socket, token).is_ok() {
                self.table.put(token, Entry::Greeting(socket));
                self.watch.limit(token);
            } else {
                self.table.remove(token);
            }
        }
    }

    fn ready(&mut self, token: Token, readiness: Readiness) {
        let flags = readiness.flags;
        match self.table.get(token) {
            Some(Entry::Stream(stream)) => {
                stream.host_event(
                    flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP),
                    flags.contains(EventFlags::OUT),
                    flags.intersects(EventFlags::HUP | EventFlags::ERR),
                );
                if stream.is_over() {
                    self.forget(token);
                } else {
                    self.schedule(token);
                }
            }
            Some(Entry::Greeting(socket)) => {
                let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
                match greeting(&*socket, ended) {
                    Greeting::Incomplete => {}
                    Greeting::Port(port) => self.request(token, port),
                    Greeting::Bad => drop(self.table.remove(token)),
                }
            }
            None => {}
        }
    }

    /// Asks the guest for the connection that a host's greeting named.
    fn request(&mut self, token: Token, guest: u32) {
        let Some(Entry::Greeting(socket)) = self.table.remove(token) else { return };
        let (Some(key), Some(token)) = (self.free_key(guest), self.table.reserve()) else { return };
        if self.watch.rename(&socket, token).is_err() {
            self.table.remove(token);
            return;
        }
        let stream = Stream::new(key, socket, Phase::Requested { sent: false });
        self.table.put(token, Entry::Stream(stream));
        self.table.bind(key, token);
        self.schedule(token);
    }

    fn free_key(&mut self, guest: u32) -> Option<Key> {
        // One more try than there can be connections.
        for _ in 0..=MAX_CONNECTIONS {
            let key = Key { host: self.next_port, guest };
            self.next_port = FIRST_PORT | self.next_port.wrapping_add(1) & (FIRST_PORT - 1);
            if self.table.find(key).is_none() {
                return Some(key);
            }
        }
        None
    }

    /// Drops the connections that did not greet in time.
    fn expire(&mut self) {
        while let Some(token) = self.watch.expired() {
            if let Some(Entry::Greeting(_)) = self.table.get(token) {
                self.table.remove(token);
            }
        }
    }
}
