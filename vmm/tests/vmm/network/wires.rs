//! A network namespace of a test's own, and taps in it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Error, Read, Write},
    net::UdpSocket,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, ipproto};

use super::PATIENCE;

/// Requests of netdevice(7) and of taps.
const SET_FLAGS: libc::Ioctl = libc::SIOCSIFFLAGS;
const SET_ADDRESS: libc::Ioctl = libc::SIOCSIFADDR;
const SET_MASK: libc::Ioctl = libc::SIOCSIFNETMASK;
const SET_MTU: libc::Ioctl = libc::SIOCSIFMTU;
const INDEX: libc::Ioctl = libc::SIOCGIFINDEX;

/// A request about an interface: its name, and a union.
type Request = [u8; 40];

/// Moves this thread, and those that it starts, into a network namespace of their own. False: there are no taps here.
pub(super) fn own_network() -> bool {
    if !Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: there is no /dev/net/tun");
        return false;
    }
    // SAFETY: the descriptor table stays shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
    ask("lo", SET_FLAGS, &1u16.to_ne_bytes());
    true
}

/// Whether this thread's network has an interface of this name.
pub(super) fn exists(name: &str) -> bool {
    let all = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    all.lines().any(|line| line.trim_start().starts_with(&format!("{name}:")))
}

/// Whether the host has IPv6.
pub(super) fn v6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// A persistent tap `10.9.NETWORK.1/24` and `fd00:0:0:NETWORK::1/64`.
pub(super) struct Tap {
    pub(super) name: String,
    pub(super) network: u8,
}

impl Tap {
    pub(super) fn new(network: u8, mtu: u32) -> Self {
        let tap = Self { name: format!("bh{network}"), network };
        let held = tap.hold();
        // SAFETY: the call takes a number.
        succeeded(unsafe { libc::ioctl(held.as_raw_fd(), libc::TUNSETPERSIST, 1) });
        drop(held);
        ask(&tap.name, SET_MTU, &mtu.to_ne_bytes());
        let address = |bytes: [u8; 4]| [&[2, 0, 0, 0][..], &bytes].concat();
        ask(&tap.name, SET_ADDRESS, &address([10, 9, network, 1]));
        ask(&tap.name, SET_MASK, &address([255, 255, 255, 0]));
        if v6() {
            fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_dad", tap.name), "0").unwrap();
        }
        ask(&tap.name, SET_FLAGS, &1u16.to_ne_bytes());
        if v6() {
            let mut request = [0; 24];
            (request[0], request[1], request[7], request[15]) = (0xfd, 0, network, 1);
            request[16..20].copy_from_slice(&64u32.to_ne_bytes());
            request[20..].copy_from_slice(&tap.index());
            let socket = socket(AddressFamily::INET6);
            // SAFETY: the request reads a `struct in6_ifreq`, which has 24 bytes.
            succeeded(unsafe { libc::ioctl(socket.as_raw_fd(), SET_ADDRESS, request.as_ptr()) });
        }
        tap
    }

    /// Opens it, as a VMM does.
    pub(super) fn hold(&self) -> File {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let request = request(&self.name, &u16::try_from(flags).unwrap().to_ne_bytes());
        // SAFETY: the request reads a `struct ifreq`, which has 40 bytes.
        succeeded(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_ptr()) });
        file
    }

    /// Sends an echo request to the guest, again and again until it is answered (RFC 792).
    pub(super) fn ping(&self) {
        let socket =
            rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // Type 8; the sum of the others is the sum's complement.
        let request = [8, 0, 0xf7 - 0x12, 0xff - 0x34, 0x12, 0x34, 0, 0];
        let begin = Instant::now();
        let mut answer = [0; 200];
        loop {
            socket.send_to(&request, (format!("10.9.{}.2", self.network).as_str(), 0)).unwrap();
            // Behind the IP header.
            while let Ok(length) = socket.recv(&mut answer) {
                if length >= 28 && answer[20] == 0 && answer[24..26] == [0x12, 0x34] {
                    return;
                }
            }
            assert!(begin.elapsed() < PATIENCE, "no answer");
        }
    }

    /// Deletes the interface, whoever holds it (rtnetlink(7), `RTM_DELLINK`).
    pub(super) fn delete(&self) {
        let mut socket =
            File::from(rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap());
        // Length, type, request and acknowledge, sequence, port; then family, type, index, flags and their mask.
        let header = [&32u32.to_ne_bytes()[..], &17u16.to_ne_bytes(), &5u16.to_ne_bytes(), &[0; 8]];
        let message = [&header.concat()[..], &[0; 4], &self.index(), &[0; 8]].concat();
        socket.write_all(&message).unwrap();
        let mut answer = [0; 100];
        let length = socket.read(&mut answer).unwrap();
        assert!(length >= 20 && answer[16..20] == [0; 4], "{answer:?}");
    }

    fn index(&self) -> [u8; 4] {
        let answer = ask(&self.name, INDEX, &[]);
        answer[16..20].try_into().unwrap()
    }
}

fn socket(family: AddressFamily) -> OwnedFd {
    rustix::net::socket(family, SocketType::DGRAM, None).unwrap()
}

fn request(name: &str, value: &[u8]) -> Request {
    let mut request = [0; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..16 + value.len()].copy_from_slice(value);
    request
}

fn ask(name: &str, what: libc::Ioctl, value: &[u8]) -> Request {
    let mut request = request(name, value);
    let socket = socket(AddressFamily::INET);
    // SAFETY: the request reads and writes a `struct ifreq`, which has 40 bytes.
    succeeded(unsafe { libc::ioctl(socket.as_raw_fd(), what, request.as_mut_ptr()) });
    request
}

fn succeeded(result: libc::c_int) {
    assert!(result >= 0, "{}", Error::last_os_error());
}
