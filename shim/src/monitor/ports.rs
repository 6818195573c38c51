//! Connections to the loopback addresses of a pod's network namespace, which are meant for programs in the guest: each is carried over a stream of the
//! guest's agent.

use std::{
    collections::BTreeMap,
    io,
    net::{Shutdown, SocketAddr, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::Arc,
    time::Duration,
};

use bulkhead_protocol::{Call, Connect, Token};
use rustix::{event::epoll::EventFlags, io::Errno, net::sockopt};

use super::{
    contained::Phase,
    core::{Monitor, Owed, log},
    plan::Plan,
    poll::{Poll, Source},
    relay::{Copied, copy, spawn},
};
use crate::{network::Loopback, sandbox::vm::rewrite::Network};

/// Connections at the same time; further ones are reset. Each has two threads.
const MOST: usize = 64;
/// Tokens from here on are connections'.
const FIRST_TOKEN: Token = 1 << 62;

/// The connections of a pod.
#[derive(Debug)]
pub(super) struct Ports {
    /// Nobody has begun to listen, and somebody should.
    wanted: bool,
    loopback: Option<Loopback>,
    /// Those for which the guest has not answered.
    waiting: BTreeMap<Token, Host>,
    last: Token,
    /// As many as there are connections, and one.
    count: Arc<()>,
}

/// The host's end of a connection, which counts.
#[derive(Debug)]
struct Host {
    socket: TcpStream,
    _counted: Arc<()>,
}

impl Ports {
    /// Whether connections are taken: a pod's, in a namespace that others on the host enter. `own`: that namespace is not the host's own.
    pub(super) fn new(plan: &Plan, own: bool) -> Self {
        let wanted = own && plan.machine.exchange && matches!(plan.network, Network::Path(_));
        Self {
            wanted,
            loopback: None,
            waiting: BTreeMap::new(),
            last: FIRST_TOKEN,
            count: Arc::default(),
        }
    }

    /// Whether a stream is a connection's.
    pub(super) fn is_port(token: Token) -> bool {
        token >= FIRST_TOKEN
    }

    /// Takes the next connection, and names its stream.
    fn accept(&mut self, poll: &Poll) -> Option<(Token, SocketAddr)> {
        let loopback = self.loopback.as_ref()?;
        let (socket, wanted) = poll.accept(loopback, Source::Ports, Loopback::accept)?;
        if Arc::strong_count(&self.count) > MOST {
            reset(&socket);
            return None;
        }
        self.last += 1;
        self.waiting.insert(self.last, Host { socket, _counted: Arc::clone(&self.count) });
        Some((self.last, wanted))
    }

    /// The guest has nobody there.
    pub(super) fn refuse(&mut self, token: Token) {
        if let Some(host) = self.waiting.remove(&token) {
            reset(&host.socket);
        }
    }
}

impl Monitor<'_> {
    /// Begins to listen once the pod's sandbox runs: a start does not wait for it.
    pub(super) fn listen_at_ports(&mut self) {
        if !self.ports.wanted || !matches!(self.main.phase, Phase::Running) {
            return;
        }
        self.ports.wanted = false;
        let taken = Loopback::capture().map_err(|error| error.to_string()).and_then(|loopback| {
            let added = self.poll.add(&loopback, Source::Ports, EventFlags::IN);
            added.map(|()| loopback).map_err(|error| error.to_string())
        });
        match taken {
            Ok(loopback) => self.ports.loopback = Some(loopback),
            Err(why) => {
                log(self.files, &format_args!("no port of the pod can be forwarded: {why}"))
            }
        }
    }

    /// Has the guest connect to where somebody on the host wants to.
    pub(super) fn connect_port(&mut self) {
        let Some((stream, wanted)) = self.ports.accept(&self.poll) else { return };
        let (container, v6, port) = (self.plan.id.clone(), wanted.is_ipv6(), wanted.port());
        let call = Call::Connect(Connect { container, v6, port, stream });
        if !self.main.lives() || self.ask(call, Owed::Connect(stream)).is_err() {
            self.ports.refuse(stream);
        }
    }

    /// The guest has connected.
    pub(super) fn carry_port(&mut self, token: Token, guest: UnixStream) {
        let Some(host) = self.ports.waiting.remove(&token) else { return };
        let carried = Carried { host, guest };
        if let Err(error) = carried.start() {
            log(self.files, &format_args!("a connection to the pod was closed: {error}"));
        }
    }
}

/// A connection with both ends.
#[derive(Debug)]
struct Carried {
    host: Host,
    guest: UnixStream,
}

impl Carried {
    /// Copies both ways, until both have ended.
    fn start(self) -> io::Result<()> {
        let [one, other] = {
            let shared = Arc::new(self);
            [Arc::clone(&shared), shared]
        };
        let started = spawn("port", {
            let one = Arc::clone(&one);
            move || one.to_guest()
        });
        started.and_then(|()| spawn("port", move || other.to_host())).inspect_err(|_| one.give_up())
    }

    fn to_guest(&self) {
        let Self { host: Host { socket, .. }, guest } = self;
        // Whoever cannot be told is gone.
        let _ = match copy(socket.as_fd(), guest.as_fd(), |_, _| {}) {
            Copied::All => guest.shutdown(Shutdown::Write),
            Copied::Failed => guest.shutdown(Shutdown::Both),
            Copied::Refused => {
                drain(socket);
                Ok(())
            }
        };
    }

    fn to_host(&self) {
        let Self { host: Host { socket, .. }, guest } = self;
        // As above.
        let _ = match copy(guest.as_fd(), socket.as_fd(), |_, _| {}) {
            Copied::All => socket.shutdown(Shutdown::Write),
            Copied::Failed => {
                self.give_up();
                Ok(())
            }
            Copied::Refused => guest.shutdown(Shutdown::Read),
        };
    }

    fn give_up(&self) {
        reset(&self.host.socket);
        // As above. It is closed when the other direction has ended, too.
        let _ = self.host.socket.shutdown(Shutdown::Read);
        let _ = self.guest.shutdown(Shutdown::Both);
    }
}

/// Takes what nobody wants: a connection that is closed with something to read is reset, and loses what is on its way to the client.
fn drain(socket: &TcpStream) {
    while matches!(rustix::io::read(socket, &mut [0; 4096]), Ok(1..) | Err(Errno::INTR)) {}
}

/// Has the other side see that there is nobody, as far as that is possible once it is connected.
fn reset(socket: &TcpStream) {
    // Closed without this it would look like an empty answer.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::TcpListener,
    };

    use super::*;
    use crate::network::in_a_namespace;

    /// A connection that is carried: its client on the host, and the agent's end.
    fn carried() -> (TcpStream, UnixStream, Arc<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (guest, agent) = UnixStream::pair().unwrap();
        let count = Arc::new(());
        let socket = listener.accept().unwrap().0;
        let host = Host { socket, _counted: Arc::clone(&count) };
        Carried { host, guest }.start().unwrap();
        (client, agent, count)
    }

    fn text(mut from: impl Read) -> String {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn each_half_ends_by_itself_and_then_nothing_is_left() {
        let (mut client, mut agent, count) = carried();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(text(&agent), "question");
        agent.write_all(b"answer").unwrap();
        agent.shutdown(Shutdown::Write).unwrap();
        assert_eq!(text(&client), "answer");
        while Arc::strong_count(&count) > 1 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_answer_to_a_question_that_is_not_read_is_whole() {
        let (mut client, mut agent, _) = carried();
        agent.shutdown(Shutdown::Read).unwrap();
        // More than is on the way.
        client.write_all(&[0; 1 << 16]).unwrap();
        let answer = "x".repeat(8 << 20);
        let expected = answer.clone();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            client.read_exact(&mut got).unwrap();
            assert!(got == expected.as_bytes());
        });
        agent.write_all(answer.as_bytes()).unwrap();
        drop(agent);
        reader.join().unwrap();
    }

    #[test]
    fn a_client_that_is_gone_is_told_of() {
        let (client, mut agent, count) = carried();
        reset(&client);
        drop(client);
        // A child of another test has it, too, until it runs its program.
        assert_eq!(text(&agent), "");
        while agent.write_all(&[0; 4096]).is_ok() {}
        drop(agent);
        while Arc::strong_count(&count) > 1 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn connections_are_bounded_and_refused_ones_are_reset() {
        in_a_namespace(|| {
            bulkhead_container::loopback_up().unwrap();
            let loopback = Some(Loopback::capture().unwrap());
            let (waiting, count) = (BTreeMap::new(), Arc::default());
            let mut ports = Ports { wanted: false, loopback, waiting, last: FIRST_TOKEN, count };
            let poll = Poll::new().unwrap();
            let connect = || TcpStream::connect("127.0.0.1:80").unwrap();
            let is_reset = |mut client: TcpStream| {
                let error = client.read(&mut [0]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            };
            let mut clients = Vec::new();
            for _ in 0..MOST {
                clients.push(connect());
                let (token, address) = ports.accept(&poll).unwrap();
                assert!(Ports::is_port(token) && address.port() == 80);
            }
            let further = connect();
            assert!(ports.accept(&poll).is_none());
            is_reset(further);
            let token = *ports.waiting.keys().next().unwrap();
            ports.refuse(token);
            ports.refuse(token);
            is_reset(clients.remove(0));
            clients.push(connect());
            assert!(ports.accept(&poll).is_some());
            assert!(ports.accept(&poll).is_none());
        });
    }
}
