//! The loopback addresses of a pod's network namespace on the host. Its programs are in the guest, where their loopback addresses are,
//! so that nobody listens here: what connects all the same (the CRI plugins' port-forward) is handed to one socket.
//!
//! That is done by a program which the kernel asks for the socket of each new connection in the namespace
//! (Documentation/bpf/prog_sk_lookup.rst, Linux 5.9): no packet is changed, nothing is tracked, other tables have no part in it, and it is gone with this process.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use bulkhead_container::ebpf::{self, Instruction, Program, Purpose};
use bulkhead_netlink::Socket;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};

use super::error::{NetworkError, failed};

/// Connections that wait to be taken.
const BACKLOG: i32 = 64;

/// A socket that gets all TCP connections to 127.0.0.1 and ::1 of a network namespace, until it is dropped.
#[derive(Debug)]
pub(crate) struct Loopback {
    listener: TcpListener,
    /// The program is asked as long as this is open.
    _link: OwnedFd,
}

impl Loopback {
    /// Begins to take those of this thread's network namespace, and does not wait for them.
    ///
    /// # Errors
    /// [`NetworkError`]; above all without the right to load programs, or on a kernel that has none of this kind.
    pub(crate) fn capture() -> Result<Self, NetworkError> {
        let listener = socket().map_err(failed("listen for connections to the pod's loopback"))?;
        let namespace = Socket::open().and_then(|socket| socket.namespace());
        let link = namespace.and_then(|namespace| {
            let map = ebpf::map_of(listener.as_fd())?;
            Program::load(Purpose::Sockets, &program(&map))?.link(namespace.as_fd())
        });
        let link = link.map_err(failed("have the kernel hand over connections to the pod's loopback (a program of type sk_lookup, Linux 5.9 with CONFIG_BPF_SYSCALL)"))?;
        Ok(Self { listener, _link: link })
    }

    /// The next connection, and the address that it wanted.
    ///
    /// # Errors
    /// accept(2); there is none now, for one.
    pub(crate) fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, _) = self.listener.accept()?;
        let mut wanted = stream.local_addr()?;
        wanted.set_ip(wanted.ip().to_canonical());
        Ok((stream, wanted))
    }
}

impl AsFd for Loopback {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Of both families, where the host has both: a socket that is bound to one address takes its family only.
fn socket() -> Result<TcpListener, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let of = |family| socket_with(family, SocketType::STREAM, flags, None);
    let socket = match of(AddressFamily::INET6) {
        Ok(socket) => {
            sockopt::set_ipv6_v6only(&socket, false)?;
            bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
            socket
        }
        Err(Errno::AFNOSUPPORT) => {
            let socket = of(AddressFamily::INET)?;
            bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
            socket
        }
        Err(errno) => return Err(errno),
    };
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The program: gives TCP connections to the two addresses to the socket in `map`, and leaves all else as it is.
fn program(map: &OwnedFd) -> Vec<Instruction> {
    /// Registers: the result, the first arguments of a function, two that functions keep, the stack.
    const RESULT: u8 = 0;
    const FIRST: u8 = 1;
    const SECOND: u8 = 2;
    const THIRD: u8 = 3;
    const CONTEXT: u8 = 6;
    const FOUND: u8 = 7;
    const STACK: u8 = 10;
    /// Fields of `struct bpf_sk_lookup`, by their offsets.
    const FAMILY: i16 = 8;
    const PROTOCOL: i16 = 12;
    const LOCAL_IPV4: i16 = 40;
    const LOCAL_IPV6: [i16; 4] = [44, 48, 52, 56];
    /// `bpf_map_lookup_elem`, `bpf_sk_assign`, `bpf_sk_release`.
    const LOOK_UP: i32 = 1;
    const ASSIGN: i32 = 124;
    const RELEASE: i32 = 86;
    /// `SK_PASS`.
    const PASS: i32 = 1;
    /// `BPF_PSEUDO_MAP_FD`.
    const MAP: u8 = 1;
    /// In the place of the distance to the end.
    const END: i16 = i16::MAX;
    let load = |field| (0x61, SECOND, CONTEXT, field, 0);
    let or_end = |value| (0x56, SECOND, 0, END, value);
    let word = |bytes: [u8; 4]| i32::from_ne_bytes(bytes);
    let [a, b, c, d] = LOCAL_IPV6;
    let steps = [
        (0xbf, CONTEXT, FIRST, 0, 0),
        load(PROTOCOL),
        or_end(libc::IPPROTO_TCP),
        load(FAMILY),
        (0x16, SECOND, 0, 10, libc::AF_INET),
        or_end(libc::AF_INET6),
        load(a),
        or_end(0),
        load(b),
        or_end(0),
        load(c),
        or_end(0),
        load(d),
        or_end(word([0, 0, 0, 1])),
        (0x05, 0, 0, 2, 0),
        load(LOCAL_IPV4),
        or_end(word(Ipv4Addr::LOCALHOST.octets())),
        // The socket at key 0.
        (0x62, STACK, 0, -4, 0),
        (0xbf, SECOND, STACK, 0, 0),
        (0x07, SECOND, 0, 0, -4),
        (0x18, FIRST, MAP, 0, map.as_raw_fd()),
        (0, 0, 0, 0, 0),
        (0x85, 0, 0, 0, LOOK_UP),
        (0x15, RESULT, 0, END, 0),
        (0xbf, FOUND, RESULT, 0, 0),
        (0xbf, FIRST, CONTEXT, 0, 0),
        (0xbf, SECOND, FOUND, 0, 0),
        (0xb7, THIRD, 0, 0, 0),
        (0x85, 0, 0, 0, ASSIGN),
        (0xbf, FIRST, FOUND, 0, 0),
        (0x85, 0, 0, 0, RELEASE),
        (0xb7, RESULT, 0, 0, PASS),
        (0x95, 0, 0, 0, 0),
    ];
    let end = steps.len() - 2;
    let instruction = |(at, (code, to, from, offset, value))| {
        let distance = if offset == END { i16::try_from(end - at - 1).ok() } else { None };
        Instruction::new(code, to, from, distance.unwrap_or(offset), value)
    };
    steps.into_iter().enumerate().map(instruction).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::UdpSocket,
        thread,
    };

    use super::{super::tests::in_a_namespace, *};

    #[test]
    fn connections_of_both_families_are_taken_with_the_address_that_they_wanted() {
        in_a_namespace(|| {
            bulkhead_container::loopback_up().unwrap();
            let loopback = Loopback::capture().unwrap();
            assert!(loopback.accept().is_err());
            for address in ["127.0.0.1:80", "[::1]:65535", "127.0.0.1:1"] {
                let mut client = TcpStream::connect(address).unwrap();
                let (mut server, wanted) = loopback.accept().unwrap();
                assert_eq!(wanted.to_string(), address);
                server.write_all(b"hello").unwrap();
                drop(server);
                let mut text = String::new();
                client.read_to_string(&mut text).unwrap();
                assert_eq!(text, "hello");
            }
            let other = TcpStream::connect("127.0.0.2:80").unwrap_err();
            assert_eq!(other.kind(), ErrorKind::ConnectionRefused);
            let datagrams = UdpSocket::bind("127.0.0.1:80").unwrap();
            datagrams.send_to(b"x", "127.0.0.1:80").unwrap();
            assert_eq!(datagrams.recv(&mut [0; 4]).unwrap(), 1);
            drop(loopback);
            // A child of another test has its descriptors, too, until it runs its program.
            while TcpStream::connect("127.0.0.1:80").is_ok() {
                thread::yield_now();
            }
        });
    }
}
