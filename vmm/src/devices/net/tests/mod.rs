//! The network card as a driver sees it, with a socket in the place of its tap: each message is a frame behind its header.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod flow;
pub(in crate::devices) mod saved;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
};

use super::{
    Net,
    frame::{ALL, HEADER},
    port::Port,
};
use crate::{
    api::{Mac, Nic},
    devices::{
        NetCounts,
        testing::{Buffer, Driver, MEMORY, pattern},
        virtio::feature,
    },
};

const RX: usize = 0;
const TX: usize = 1;

/// A socket that is taken for a tap.
#[derive(Debug)]
struct Socket(OwnedFd, Arc<AtomicU64>);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Port for Socket {
    fn accept(&self, features: u64) -> io::Result<()> {
        self.1.store(features, Ordering::SeqCst);
        Ok(())
    }
}

/// The other end of it: a network with one host.
#[derive(Debug)]
pub(in crate::devices) struct Host {
    socket: OwnedFd,
    accepted: Arc<AtomicU64>,
}

impl Host {
    /// Sends a frame; false when there is no room.
    pub(in crate::devices) fn send(&self, frame: &[u8]) -> bool {
        let message = [&[0; HEADER], frame].concat();
        match rustix::net::send(&self.socket, &message, SendFlags::empty()) {
            Ok(_) => true,
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next frame that the guest sent, behind its header.
    pub(in crate::devices) fn receive(&self) -> Option<Vec<u8>> {
        let mut message = vec![0; 1 << 17];
        match rustix::net::recv(&self.socket, &mut message[..], RecvFlags::empty()) {
            Ok((length, _)) => Some(message[..length].to_vec()),
            Err(Errno::AGAIN) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn nic(last: u8, mtu: u16) -> Nic {
    Nic { mac: Mac([2, 0, 0, 0, 0, last]), mtu, tap: None }
}

/// A card, and the network that it is in.
pub(in crate::devices) fn card(last: u8, mtu: u16) -> (Net, Host) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let accepted = Arc::<AtomicU64>::default();
    let port = Socket(ours, accepted.clone());
    let net = Net::new(&nic(last, mtu), Some(Arc::new(port))).unwrap();
    (net, Host { socket: theirs, accepted })
}

/// A running card and its driver.
struct Wire {
    driver: Driver,
    host: Host,
    counts: Arc<NetCounts>,
}

impl Wire {
    fn new(without: u64) -> Self {
        let (net, host) = card(1, 1500);
        let counts = net.counts();
        Self { driver: Driver::start(net, without), host, counts }
    }

    /// Gives the device a buffer; its address.
    fn give(&mut self, length: usize) -> u64 {
        let address = self.driver.allocate(length);
        self.driver.add(RX, &[(address, length as u32, true)]);
        address
    }

    /// Sends a chain and waits for it to come back.
    fn transmit(&mut self, chain: &[Buffer]) {
        let head = self.driver.add(TX, chain);
        self.driver.kick(TX);
        assert_eq!(self.driver.wait_used(TX, 1), [(head, 0)]);
    }

    /// Sends a frame behind `header`, cut after so many bytes of both.
    fn transmit_cut(&mut self, header: [u8; HEADER], frame: &[u8], cut: usize) {
        let heap = self.driver.allocate(0);
        let bytes = [&header, frame].concat();
        let at = self.driver.put(&bytes);
        let rest = (bytes.len() - cut) as u32;
        self.transmit(&[(at, cut as u32, false), (at + cut as u64, rest, false)]);
        self.driver.heap_reset(heap);
    }

    fn link(&self) -> [u8; 2] {
        self.driver.config(6)
    }

    fn losses(&self) -> (u64, u64) {
        (self.counts.dropped.get(), self.counts.errors.get())
    }
}

#[test]
fn the_driver_reads_address_link_and_mtu() {
    let wire = Wire::new(0);
    assert_eq!(wire.driver.register(0x08), 1);
    assert_eq!(wire.driver.config(0), [2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0xdc, 5, 0, 0]);
    assert_eq!(wire.driver.config(1 << 40), [0; 4]);
    let offered = feature::VERSION_1 | feature::EVENT_IDX | ALL;
    assert_eq!(wire.host.accepted.load(Ordering::SeqCst), offered);
    let slot = Net::open(&nic(9, 65535)).unwrap();
    let driver = Driver::start(slot, 0);
    assert_eq!(driver.config(0), [2, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0xff, 0xff]);
}

#[test]
fn frames_from_the_guest_arrive_in_order_however_they_are_cut() {
    let mut wire = Wire::new(0);
    let frames: Vec<_> = [14, 60, 100, 1514].map(|length| pattern(length, length as usize)).into();
    for (frame, cut) in frames.iter().zip([12, 5, 40, 1000]) {
        wire.transmit_cut([0; HEADER], frame, cut);
    }
    for frame in &frames {
        assert_eq!(wire.host.receive().unwrap(), [&[0; HEADER][..], frame].concat());
    }
    // More pieces than a system call takes.
    let frame = pattern(7, 1500);
    let at = wire.driver.put(&[&[0; HEADER], &frame[..]].concat());
    let pieces: Vec<_> = (0..126).map(|index| (at + 12 * index, 12, false)).collect();
    wire.transmit(&pieces);
    assert_eq!(wire.host.receive().unwrap()[HEADER..], frame);
    assert_eq!(wire.host.receive(), None);
    assert_eq!(
        (wire.counts.sent.get(), wire.counts.sent_bytes.get()),
        (5, 14 + 60 + 100 + 1514 + 1500)
    );
    assert_eq!(wire.losses(), (0, 0));
}

#[test]
fn the_host_gets_a_header_that_was_checked() {
    let mut wire = Wire::new(0);
    // Segments of 1000 bytes, with noise where nothing is meant.
    let header = [1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0xaa, 0xaa];
    wire.transmit_cut(header, &pattern(1, 40_000), 12);
    let message = wire.host.receive().unwrap();
    assert_eq!(message[..HEADER], [1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0]);
    assert_eq!(message[HEADER..], pattern(1, 40_000));
    wire.transmit_cut([0xfe, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &pattern(2, 60), 12);
    assert_eq!(wire.host.receive().unwrap()[..HEADER], [0; HEADER]);
    for (header, length) in [
        // Longer than the MTU; segments longer than it; a checksum outside; no segments that there are.
        ([0; HEADER], 1519),
        ([1, 1, 54, 0, 0xdd, 5, 34, 0, 16, 0, 0, 0], 40_000),
        ([1, 0, 0, 0, 0, 0, 34, 0, 25, 0, 0, 0], 60),
        ([1, 5, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0], 40_000),
    ] {
        wire.transmit_cut(header, &pattern(1, length), 12);
    }
    assert_eq!(wire.host.receive(), None);
    assert_eq!(wire.losses(), (0, 4));
}

#[test]
fn malformed_chains_are_answered_and_counted() {
    let mut wire = Wire::new(0);
    let at = wire.driver.put(&[0; 100]);
    for chain in [
        [(at, 11, false), (at, 0, false)],
        [(at, 12, false), (at, 13, false)],
        [(at, 60, true), (at, 60, false)],
        [(MEMORY - 8, 60, false), (at, 60, false)],
        [(at, 0, false), (at, u32::MAX, false)],
    ] {
        wire.transmit(&chain);
    }
    assert_eq!((wire.host.receive(), wire.losses()), (None, (0, 5)));
    // For frames of the host: nothing that can be written, nothing that is memory.
    let first = wire.driver.add(RX, &[(at, 100, false)]);
    let second = wire.driver.add(RX, &[(MEMORY, 100, true)]);
    let good = wire.give(100);
    let third = wire.driver.add(RX, &[(at, 0, true)]);
    wire.give(2000);
    assert!(wire.host.send(&pattern(1, 60)));
    let used = wire.driver.wait_used(RX, 3);
    assert_eq!(used[..2], [(first, 0), (second, 0)]);
    assert_eq!(wire.driver.bytes(good + 12, 60), pattern(1, 60));
    assert!(wire.host.send(&pattern(2, 60)));
    let used: Vec<_> = used.into_iter().skip(3).chain(wire.driver.wait_used(RX, 1)).collect();
    assert_eq!(used[0], (third, 0));
    assert_eq!(wire.losses(), (0, 8));
}

#[test]
fn a_reset_ends_it_and_another_start_goes_on() {
    let mut wire = Wire::new(0);
    wire.give(2000);
    wire.driver.set_register(0x70, 0);
    assert!(wire.host.send(&pattern(1, 60)));
    wire.driver.settle();
    assert_eq!(wire.driver.used(RX), []);
    wire.driver.restart(0);
    let at = wire.give(2000);
    wire.driver.kick(RX);
    wire.driver.wait_used(RX, 1);
    assert_eq!(wire.driver.bytes(at + 12, 60), pattern(1, 60));
}
