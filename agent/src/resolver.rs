//! Name servers that listen on a loopback address of the host's network namespace, as docker's own does: in the guest that address is the
//! guest's, so that the agent listens there and has the monitor ask.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};

use bulkhead_protocol::{Failure, Message, Query, Resolved, network::MAX_DATAGRAM};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, bind,
        recvfrom, sendto, socket_with, sockopt,
    },
};

use crate::{
    answer::system,
    control::Control,
    events::{Events, Source},
};

const PORT: u16 = 53;
/// Questions without an answer; the oldest is forgotten for a further one.
const MOST_WAITING: usize = 64;
/// Questions that are read before other events are looked at.
const AT_ONCE: usize = 16;

/// The servers and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    servers: Vec<OwnedFd>,
    waiting: VecDeque<Waiting>,
    last: u64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    server: usize,
    from: SocketAddrAny,
}

/// Listens at these addresses, in this thread's network namespace.
pub(crate) fn listen(addresses: &[Ipv4Addr]) -> Result<Vec<OwnedFd>, Failure> {
    let listen = |address: &Ipv4Addr| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        // A program of the container that does the same may have the port at other addresses.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(*address, PORT))?;
        Ok(socket)
    };
    let failed =
        |errno: Errno| system(format!("cannot listen for the container's name server: {errno}"));
    addresses.iter().map(listen).collect::<Result<_, _>>().map_err(failed)
}

impl Resolver {
    /// Serves these sockets beside those that there are.
    pub(crate) fn add(&mut self, sockets: Vec<OwnedFd>, events: &Events) -> Result<(), Failure> {
        for socket in sockets {
            let number = u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
            events
                .add_reader(&socket, Source::Names(number))
                .map_err(|errno| system(format!("cannot watch a socket: {errno}")))?;
            self.servers.push(socket);
        }
        Ok(())
    }

    /// Hands questions on to the monitor.
    pub(crate) fn ask(&mut self, number: u32, control: &mut Control) {
        let Ok(server) = usize::try_from(number) else { return };
        let Some(socket) = self.servers.get(server) else { return };
        let mut datagram = [0; MAX_DATAGRAM];
        for _ in 0..AT_ONCE {
            let (read, length, from) = match recvfrom(socket, &mut datagram, RecvFlags::TRUNC) {
                Ok((read, length, Some(from))) => (read, length, from),
                _ => return,
            };
            // Too long a question is none.
            let Some(datagram) = datagram.get(..read).filter(|_| length <= MAX_DATAGRAM) else {
                continue;
            };
            self.last += 1;
            let id = self.last;
            if self.waiting.len() >= MOST_WAITING {
                self.waiting.pop_front();
            }
            self.waiting.push_back(Waiting { id, server, from });
            let server = u8::try_from(number).unwrap_or(u8::MAX);
            control.put(&Message::Query(Query { id, server, datagram: datagram.to_vec() }));
        }
    }

    /// Hands an answer to who asked.
    pub(crate) fn answer(&mut self, resolved: &Resolved) {
        let Some(at) = self.waiting.iter().position(|one| one.id == resolved.id) else { return };
        let Some(Waiting { server, from, .. }) = self.waiting.remove(at) else { return };
        if let Some(socket) = self.servers.get(server) {
            // As with any datagram, who does not get it asks again.
            let _ = sendto(socket, &resolved.datagram, SendFlags::NOSIGNAL, &from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::unix::net::UnixStream, thread, time::Duration};

    use bulkhead_protocol::read_frame;
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    /// A question, and its answer, of a client that is told so by its own socket.
    fn asks_and_hears() {
        let events = Events::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut control = Control::new(ours.into());
        let mut resolver = Resolver::default();
        let sockets = listen(&[Ipv4Addr::new(127, 0, 0, 11)]).unwrap();
        resolver.add(sockets, &events).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.11:53").unwrap();
        client.send(&[9; MAX_DATAGRAM + 1]).unwrap();
        client.send(b"who?").unwrap();
        let (source, _) = events.wait(true).unwrap().next().unwrap();
        assert_eq!(source, Source::Names(0));
        resolver.ask(0, &mut control);
        assert!(control.flush());
        let message = read_frame(&mut theirs, 1 << 20).unwrap();
        let Message::Query(Query { id, server: 0, datagram }) = message else {
            panic!("{message:?}")
        };
        assert_eq!(datagram, b"who?", "too long a question is none");
        resolver.answer(&Resolved { id: id + 1, datagram: b"nobody".to_vec() });
        resolver.answer(&Resolved { id, datagram: b"you".to_vec() });
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut answer = [0; 64];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"you");
        for _ in 0..2 * MOST_WAITING {
            client.send(b"again").unwrap();
            resolver.ask(0, &mut control);
        }
        assert!(resolver.waiting.len() <= MOST_WAITING);
    }

    #[test]
    fn a_question_goes_to_the_monitor_and_its_answer_to_who_asked() {
        let body = || {
            // SAFETY: this thread's descriptors and memory stay as they are.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            bulkhead_container::loopback_up().unwrap();
            asks_and_hears();
        };
        thread::spawn(body).join().unwrap();
    }
}
