//! Connections that the monitor wants to have to programs which listen on a loopback address of a container's network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use bulkhead_protocol::{Connect, Failure, Token};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};

use crate::{
    answer::{invalid, state, system},
    events::{Events, Source},
};

/// Connections that have not come about; more are refused.
const MOST: usize = 64;

/// Those that have not come about.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    trying: Vec<Trying>,
    last: u32,
}

#[derive(Debug)]
struct Trying {
    number: u32,
    stream: Token,
    port: u16,
    socket: OwnedFd,
    /// Where it is tried next.
    others: Sockets,
}

/// Sockets that are not connected, and the addresses that they are for; the last one is tried first.
pub(crate) type Sockets = Vec<(OwnedFd, IpAddr)>;

/// What becomes of a connection.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is not known yet.
    Waits,
    /// It came about.
    Connected(Token, OwnedFd),
    /// Nobody listens.
    Refused(Token),
}

/// Sockets of this thread's network namespace for its loopback addresses, of the families that the kernel has.
pub(crate) fn sockets() -> Sockets {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let addresses: [(_, IpAddr); 2] = [
        (AddressFamily::INET6, Ipv6Addr::LOCALHOST.into()),
        (AddressFamily::INET, Ipv4Addr::LOCALHOST.into()),
    ];
    let made = addresses.into_iter().map(|(family, ip)| {
        socket_with(family, SocketType::STREAM, flags, None).map(|socket| (socket, ip))
    });
    made.filter_map(Result::ok).collect()
}

impl Ports {
    /// Begins to connect with one of these sockets.
    pub(crate) fn begin(
        &mut self,
        mut sockets: Sockets,
        wanted: &Connect,
        events: &Events,
    ) -> Result<Outcome, Failure> {
        let Connect { v6, port, stream, .. } = *wanted;
        if port == 0 {
            return Err(invalid("there is no TCP port 0".to_owned()));
        }
        if self.trying.len() >= MOST {
            return Err(state(format!("{MOST} connections have not come about yet")));
        }
        if v6 {
            sockets.reverse();
        }
        self.attempt(sockets, port, stream, events)
            .map_err(|errno| system(format!("cannot watch a connection: {errno}")))
    }

    /// Tries one address after the other, until one answers or has to be waited for.
    fn attempt(
        &mut self,
        mut sockets: Sockets,
        port: u16,
        stream: Token,
        events: &Events,
    ) -> Result<Outcome, Errno> {
        while let Some((socket, ip)) = sockets.pop() {
            match connect(&socket, &SocketAddr::new(ip, port)) {
                Ok(()) => return Ok(Outcome::Connected(stream, socket)),
                Err(Errno::INPROGRESS) => {
                    self.last = self.last.wrapping_add(1);
                    events.add_changes(&socket, EventFlags::OUT, Source::Port(self.last))?;
                    let number = self.last;
                    self.trying.push(Trying { number, stream, port, socket, others: sockets });
                    return Ok(Outcome::Waits);
                }
                Err(_) => {}
            }
        }
        Ok(Outcome::Refused(stream))
    }

    /// A connection came about, or did not.
    pub(crate) fn turn(&mut self, number: u32, events: &Events) -> Outcome {
        let Some(at) = self.trying.iter().position(|trying| trying.number == number) else {
            return Outcome::Waits;
        };
        let Trying { stream, port, socket, others, .. } = self.trying.swap_remove(at);
        // A process that is being made may have it, too, so that closing it would not do.
        let _ = events.remove(&socket);
        if matches!(sockopt::socket_error(&socket), Ok(Ok(()))) {
            return Outcome::Connected(stream, socket);
        }
        self.attempt(others, port, stream, events).unwrap_or(Outcome::Refused(stream))
    }
}
