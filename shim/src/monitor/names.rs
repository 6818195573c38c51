//! Name servers on a loopback address of the container's network namespace (docker's own is one): the guest's agent hands questions on, and
//! this process, which is in that namespace, asks.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use bulkhead_protocol::{
    Query, Resolved,
    network::{MAX_DATAGRAM, MAX_NAME_SERVERS},
};
use rustix::event::epoll::EventFlags;
use serde_json::Value;

use super::poll::{Poll, Source};

/// Questions that wait for an answer; the guest's further ones are lost, as datagrams may be.
const MOST: usize = 64;
/// How long an answer may take: the resolver asks again after 5 s (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a resolv.conf.
const MAX_FILE: u64 = 64 << 10;
const PORT: u16 = 53;

/// The servers, and what they were asked.
#[derive(Debug, Default)]
pub(super) struct Names {
    servers: Vec<Ipv4Addr>,
    asked: BTreeMap<u32, Asked>,
    last: u32,
}

#[derive(Debug)]
struct Asked {
    socket: UdpSocket,
    id: u64,
    until: Instant,
}

/// The name servers that the specification's container is told of and that only its namespace reaches: those of the file that is
/// mounted on its `/etc/resolv.conf`.
pub(super) fn local(spec: &Value) -> Vec<Ipv4Addr> {
    let mounts = spec.get("mounts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let of =
        |mount: &Value, field: &str| mount.get(field).and_then(Value::as_str).map(str::to_owned);
    let last = mounts
        .iter()
        .rfind(|mount| of(mount, "destination").is_some_and(|path| path == "/etc/resolv.conf"));
    let file = last.and_then(|mount| of(mount, "source")).and_then(|path| File::open(path).ok());
    file.map(|file| listed(file.take(MAX_FILE))).unwrap_or_default()
}

fn listed(text: impl Read) -> Vec<Ipv4Addr> {
    let address = |line: String| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|&word| word == "nameserver").and_then(|_| words.next());
        address?.parse().ok().filter(Ipv4Addr::is_loopback)
    };
    let lines = BufReader::new(text).lines().map_while(Result::ok);
    lines.filter_map(address).take(MAX_NAME_SERVERS).collect()
}

impl Names {
    pub(super) fn new(servers: &[Ipv4Addr]) -> Self {
        Self { servers: servers.to_vec(), ..Self::default() }
    }

    /// Asks a server. Whatever fails is a lost datagram.
    pub(super) fn ask(&mut self, query: &Query, poll: &Poll) {
        let server = self.servers.get(usize::from(query.server)).copied();
        if let Some(server) = server
            && query.datagram.len() <= MAX_DATAGRAM
            && self.asked.len() < MOST
            && let Ok(socket) = send(server, &query.datagram)
        {
            self.last = self.last.wrapping_add(1);
            if poll.add(&socket, Source::Name(self.last), EventFlags::IN).is_ok() {
                let until = Instant::now() + PATIENCE;
                self.asked.insert(self.last, Asked { socket, id: query.id, until });
            }
        }
    }

    /// A server has answered, or will not.
    pub(super) fn answer(&mut self, number: u32, poll: &Poll) -> Option<Resolved> {
        let Asked { socket, id, .. } = self.asked.remove(&number)?;
        poll.remove(&socket);
        let mut datagram = vec![0; MAX_DATAGRAM];
        let length = socket.recv(&mut datagram).ok()?;
        datagram.truncate(length);
        Some(Resolved { id, datagram })
    }

    /// Forgets the questions that took too long; when the next one's time is over.
    pub(super) fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        // Closing takes it out of the epoll instance.
        self.asked.retain(|_, asked| asked.until > now);
        self.asked.values().map(|asked| asked.until).min()
    }
}

fn send(server: Ipv4Addr, datagram: &[u8]) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect((server, PORT))?;
    socket.send(datagram)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_loopback_addresses_are_relayed() {
        let text = "# nameserver 127.0.0.1\nsearch a b\nnameserver 127.0.0.11 # docker\nnameserver 8.8.8.8\n\
                    nameserver\nnameserver ::1\n  nameserver  127.0.0.53\noptions ndots:0\n";
        let wanted = [Ipv4Addr::new(127, 0, 0, 11), Ipv4Addr::new(127, 0, 0, 53)];
        assert_eq!(listed(text.as_bytes()), wanted);
        assert_eq!(listed(&b"\xff\nnameserver 127.0.0.1"[..]), [Ipv4Addr::LOCALHOST; 0]);
        let many = "nameserver 127.0.0.1\n".repeat(9);
        assert_eq!(listed(many.as_bytes()).len(), MAX_NAME_SERVERS);
    }

    #[test]
    fn they_are_in_the_file_that_the_container_gets() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.11\n").unwrap();
        let mount = |source: &str| json!({"destination": "/etc/resolv.conf", "source": source});
        let spec = json!({"mounts": [mount("/no/such"), mount(file.to_str().unwrap())]});
        assert_eq!(local(&spec), [Ipv4Addr::new(127, 0, 0, 11)]);
        for bad in [json!({}), json!({"mounts": [mount("/no/such")]}), json!({"mounts": [7]})] {
            assert_eq!(local(&bad), [Ipv4Addr::LOCALHOST; 0]);
        }
    }

    #[test]
    fn questions_are_bounded_and_forgotten() {
        let poll = Poll::new().unwrap();
        let mut names = Names::new(&[Ipv4Addr::LOCALHOST]);
        let query = |server| Query { id: 7, server, datagram: vec![0; 12] };
        names.ask(&query(1), &poll);
        let long = Query { datagram: vec![0; MAX_DATAGRAM + 1], ..query(0) };
        names.ask(&long, &poll);
        assert!(names.asked.is_empty(), "no such server, and too long a question");
        for _ in 0..2 * MOST {
            names.ask(&query(0), &poll);
        }
        assert!(names.asked.len() <= MOST);
        assert_eq!(names.answer(0, &poll), None);
        for asked in names.asked.values_mut() {
            asked.until = Instant::now();
        }
        assert_eq!(names.expire(), None);
        assert!(names.asked.is_empty());
    }
}
