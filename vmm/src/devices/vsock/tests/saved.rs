//! Connections across a save: kept where they are at rest, refused where they are not, made anew by another device.

use super::*;
use crate::devices::{
    suite::Subject,
    virtio::{DeviceState, RestoreError, SaveError, TransportState},
};

const OTHER: Key = Key { host: 8, guest: 1001 };

/// A guest that talks to a host.
pub(in crate::devices) struct Talk {
    guest: Guest,
    listener: UnixListener,
    socket: Option<UnixStream>,
    /// Bytes from the host since the connection began.
    heard: u32,
}

impl Talk {
    /// The host's end of the connection: the newest that there is.
    fn socket(&mut self) -> &mut UnixStream {
        self.listener.set_nonblocking(true).unwrap();
        // Of a state that was tampered with, there may be more than one.
        while let Ok((socket, _)) = self.listener.accept() {
            self.socket = Some(socket);
        }
        self.socket.as_mut().unwrap()
    }
}

impl Subject for Talk {
    type Device = Vsock;

    fn start(without: u64) -> Self {
        let guest = Guest::without(without, 16);
        let listener = guest.listen(7);
        Self { guest, listener, socket: None, heard: 0 }
    }

    fn driver(&mut self) -> &mut Driver {
        &mut self.guest.driver
    }

    fn another(&mut self) -> Vsock {
        let device = self.guest.another();
        self.listener = self.guest.listen(7);
        device
    }

    fn prepare(&mut self) {
        self.socket = None;
        self.guest.received.clear();
        for (_, place) in std::mem::take(&mut self.guest.buffers) {
            self.guest.give(place);
        }
        self.guest.driver.kick(RX);
    }

    fn drive(&mut self, round: u32, meanwhile: &mut dyn FnMut(&mut Self)) -> Vec<u8> {
        let mut seen = Vec::new();
        if round.is_multiple_of(5) {
            if self.socket.is_some() {
                self.guest.send(KEY, Op::Shutdown, BOTH, self.heard, &[]);
                self.guest.expect(KEY, Op::Reset);
            }
            self.heard = 0;
            self.guest.send(KEY, Op::Request, 0, 0, &[]);
            seen.extend(self.guest.expect(KEY, Op::Response).encode());
        }
        self.socket();
        meanwhile(self);
        let question = pattern(u64::from(round), 5000);
        self.guest.send(KEY, Op::Data, 0, self.heard, &question);
        let mut asked = vec![0; question.len()];
        self.socket().read_exact(&mut asked).unwrap();
        seen.extend(asked);
        meanwhile(self);
        self.socket().write_all(&question).unwrap();
        let mut answered = 0;
        while answered < question.len() {
            let (header, data) = self.guest.receive();
            assert_eq!(header.op, Op::Data);
            answered += data.len();
            seen.extend(header.fwd_cnt.to_le_bytes());
            seen.extend(data);
        }
        self.heard += answered as u32;
        meanwhile(self);
        self.guest.send(KEY, Op::CreditRequest, 0, self.heard, &[]);
        seen.extend(self.guest.expect(KEY, Op::CreditUpdate).encode());
        seen
    }
}

impl Guest {
    /// Another device takes over, whose sockets are in a directory of its own. Returns the listening sockets for `ports` there.
    fn move_over(&mut self, state: &TransportState, ports: &[u32]) -> Vec<UnixListener> {
        let device = self.another();
        let listeners = ports.iter().map(|port| self.listen(*port)).collect();
        self.driver.restore(device, state).unwrap();
        listeners
    }

    /// A device like this one in a directory of its own.
    pub(super) fn another(&mut self) -> Vsock {
        self.directory = TempDir::new().unwrap();
        self.path = self.directory.path().join("vsock");
        let device = Vsock::bind(&api::Vsock { cid: CID as u32, path: self.path.clone() }).unwrap();
        self.counts = device.counts();
        device
    }

    fn save(&self) -> TransportState {
        self.driver.transport().save().unwrap()
    }

    /// Asks for a save, which must be refused for this reason.
    fn expect_busy(&self, with: &str) {
        let error = self.driver.transport().save().unwrap_err();
        let SaveError::Busy { device: "vsock", why } = &error else { panic!("{error}") };
        assert!(why.contains(with), "{why}");
    }
}

#[test]
fn connections_are_kept_with_their_credit() {
    let mut guest = Guest::new();
    let listeners = [guest.listen(7), guest.listen(8)];
    let mut first = guest.connect(&listeners[0], KEY);
    let second = guest.connect(&listeners[1], OTHER);
    guest.send(KEY, Op::Data, 0, 0, b"question");
    first.read_exact(&mut [0; 8]).unwrap();
    first.write_all(b"answer").unwrap();
    assert_eq!(guest.receive().1, b"answer");
    // The guest's word that it read the answer is on its way when the machine is saved.
    let word = header(KEY, Op::CreditUpdate, 0, 6, 0);
    guest.driver.poke(guest.scratch, &word.encode());
    guest.driver.add(TX, &[(guest.scratch, HEADER as u32, false)]);
    guest.driver.kick(TX);
    let state = guest.save();
    assert_eq!(guest.driver.used(TX).len(), 1);
    let listeners = guest.move_over(&state, &[7, 8]);
    drop((first, second));
    let mut first = listeners[0].accept().unwrap().0;
    let mut second = listeners[1].accept().unwrap().0;
    guest.expect_silence();
    first.write_all(&pattern(1, GUEST_BUFFER as usize + 1)).unwrap();
    let mut received = Vec::new();
    while received.len() < GUEST_BUFFER as usize {
        let (header, data) = guest.receive();
        assert_eq!((header.op, header.fwd_cnt), (Op::Data, 8));
        received.extend(data);
    }
    assert_eq!(received, pattern(1, GUEST_BUFFER as usize), "all the credit and no more");
    assert_eq!(guest.expect(KEY, Op::CreditRequest).fwd_cnt, 8);
    guest.send(KEY, Op::CreditUpdate, 0, GUEST_BUFFER + 6, &[]);
    assert_eq!(guest.receive().1.len(), 1);
    guest.send(OTHER, Op::Data, 0, 0, b"I am another");
    second.read_exact(&mut [0; 12]).unwrap();
    guest.send(OTHER, Op::Shutdown, BOTH, 0, &[]);
    guest.expect(OTHER, Op::Reset);
    assert_eq!(drain(&mut second), b"");
    assert_eq!(guest.counts.errors.get(), 0);
}

#[test]
fn a_connection_that_nobody_accepts_is_reset() {
    let mut guest = Guest::new();
    let listeners = [guest.listen(7), guest.listen(8)];
    let _sockets = [guest.connect(&listeners[0], KEY), guest.connect(&listeners[1], OTHER)];
    let state = guest.save();
    let listeners = guest.move_over(&state, &[8]);
    let mut kept = listeners[0].accept().unwrap().0;
    guest.expect(KEY, Op::Reset);
    kept.write_all(b"here").unwrap();
    assert_eq!(guest.receive().1, b"here");
    // The port is free again.
    let listener = guest.listen(7);
    let _socket = guest.connect(&listener, KEY);
}

#[test]
fn what_is_under_way_makes_the_device_busy_and_goes_on() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    // The host takes no more.
    let mut sent = Vec::new();
    while sent.len() < 4 * HOST_BUFFER as usize {
        let piece = pattern(sent.len() as u64, HOST_BUFFER as usize / 2);
        guest.send(KEY, Op::Data, 0, 0, &piece);
        sent.extend(piece);
        if guest.driver.transport().save().is_err() {
            break;
        }
        guest.driver.transport().resume();
    }
    guest.expect_busy("bytes of the guest wait between the guest's port 1000 and the host's 7");
    let mut received = vec![0; sent.len()];
    let mut at = 0;
    while at < sent.len() {
        at += socket.read(&mut received[at..]).unwrap();
        guest.driver.pump();
    }
    assert_eq!(received, sent);
    guest.driver.pump();
    guest.received.clear();
    guest.save();
    guest.driver.transport().resume();
    guest.driver.pump();
    guest.collect();
    guest.received.clear();
    // The guest has no room, so that the host's bytes stay in the socket.
    socket.write_all(&pattern(2, GUEST_BUFFER as usize + 1)).unwrap();
    guest.expect_busy("bytes of the host wait");
    let mut received = Vec::new();
    while received.len() < GUEST_BUFFER as usize {
        received.extend(guest.receive().1);
    }
    guest.expect(KEY, Op::CreditRequest);
    guest.expect_busy("bytes of the host wait");
    guest.send(KEY, Op::CreditUpdate, 0, GUEST_BUFFER, &[]);
    received.extend(guest.receive().1);
    assert_eq!(received, pattern(2, GUEST_BUFFER as usize + 1));
    guest.save();
}

#[test]
fn beginnings_and_ends_make_the_device_busy() {
    let mut guest = Guest::without(0, 1);
    let listener = guest.listen(7);
    let socket = guest.connect(&listener, KEY);
    socket.shutdown(Shutdown::Write).unwrap();
    guest.expect_busy("begins or ends");
    guest.expect(KEY, Op::Shutdown);
    guest.expect_busy("begins or ends");
    guest.send(KEY, Op::Shutdown, BOTH, 0, &[]);
    guest.expect(KEY, Op::Reset);
    guest.save();
    guest.driver.transport().resume();
    // The only buffer goes to the first response.
    for key in [KEY, OTHER] {
        guest.send(key, Op::Request, 0, 0, &[]);
    }
    let _other = guest.listen(8);
    guest.expect_busy("no buffers");
    guest.expect(KEY, Op::Response);
    guest.expect(OTHER, Op::Reset);
    guest.save();
}

#[test]
fn connections_of_the_host_are_not_kept() {
    let mut guest = Guest::new();
    // One that has not said where it wants to is nothing to the guest.
    let mut early = UnixStream::connect(&guest.path).unwrap();
    early.write_all(b"CONN").unwrap();
    guest.driver.pump();
    guest.save();
    guest.driver.transport().resume();
    early.write_all(b"ECT 1024\n").unwrap();
    let (request, _) = guest.receive();
    guest.expect_busy("connection of the host's");
    let key = Key { host: request.src_port, guest: 1024 };
    guest.send(key, Op::Response, 0, 0, &[]);
    guest.expect_busy("connection of the host's");
    guest.send(key, Op::Reset, 0, 0, &[]);
    guest.driver.pump();
    let state = guest.save();
    guest.move_over(&state, &[]);
    let (_socket, other) = guest.accept(1024);
    assert_ne!(other, key, "ports are not used again soon");
}

#[test]
fn a_device_that_goes_on_has_its_sockets_and_missed_nothing() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let mut socket = guest.connect(&listener, KEY);
    guest.save();
    let before = guest.driver.bytes(0, crate::devices::testing::MEMORY as usize);
    socket.write_all(b"meanwhile").unwrap();
    let mut late = UnixStream::connect(&guest.path).unwrap();
    late.write_all(b"CONNECT 5\n").unwrap();
    for queue in [RX, TX] {
        guest.driver.kick(queue);
    }
    // It rests, although there is something to look at.
    guest.driver.settle();
    assert!(before == guest.driver.bytes(0, crate::devices::testing::MEMORY as usize));
    guest.driver.transport().resume();
    assert_eq!(guest.receive().1, b"meanwhile");
    assert_eq!(guest.receive().0.op, Op::Request);
}

#[test]
fn states_of_no_device_are_refused() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let _socket = guest.connect(&listener, KEY);
    let state = guest.save();
    let mut refused = |what: &str, change: fn(&mut super::super::VsockState)| {
        let mut state = state.clone();
        let DeviceState::Vsock(device) = &mut state.device else { panic!("a vsock device") };
        change(device);
        let error = {
            let device = guest.another();
            guest.driver.restore(device, &state).unwrap_err()
        };
        assert!(error.to_string().contains(what), "{error}");
        error
    };
    let error = refused("context id was 6 when it was saved and is 5 now", |state| state.cid = 6);
    assert!(matches!(error, RestoreError::Differs { .. }));
    refused("second connection", |state| state.connections.push(state.connections[0].clone()));
    refused("next port", |state| state.next_port = 1 << 31);
    refused("next port", |state| state.next_port = 0);
    refused("number of connections is 0x401", |state| {
        state.connections = vec![state.connections[0].clone(); MAX_CONNECTIONS + 1];
    });
}
