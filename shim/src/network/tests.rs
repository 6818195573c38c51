//! Interfaces in network namespaces of the tests' own; and what a kernel could say.

use std::{
    fs::{self, File},
    io::{Read, Write},
    iter,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    process::{Command, Stdio},
};

use bulkhead_netlink::{Batch, Family, attributes, messages};
use bulkhead_protocol::network::Interface;
use proptest::prelude::*;
use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{
    entries::{AddressEntry, NeighbourEntry, RouteEntry, network as network_of},
    *,
};

/// Runs a test in a thread that is in an empty network namespace.
pub(crate) fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        // SAFETY: this thread's descriptors and memory stay as they are.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        test();
    };
    thread::spawn(body).join().unwrap();
}

/// `ip` or `tc` with these words.
#[track_caller]
fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An interface as engines make it, and its other end.
fn veth(name: &str, far: &str) {
    run(&format!("ip link add {name} type veth peer name {far}"));
    run(&format!("ip link set {name} up"));
    run(&format!("ip link set {far} up"));
}

#[test]
fn a_namespace_is_read_as_it_is() {
    in_a_namespace(|| {
        veth("eth0", "far0");
        run("ip link set lo up");
        for line in [
            "ip link set eth0 mtu 1400 address 02:42:00:00:00:05",
            "ip address add 10.88.0.5/16 broadcast 10.88.255.255 dev eth0",
            "ip address add 10.88.0.6/16 dev eth0",
            "ip address add fd00::5/64 dev eth0 nodad",
            "ip address add 192.0.2.5/24 dev eth0",
            "ip route del 192.0.2.0/24 dev eth0",
            "ip route add default via 10.88.0.1 metric 100",
            "ip route add 203.0.113.0/24 via 198.18.0.1 dev eth0 onlink mtu 1300",
            "ip route add 198.51.100.0/24 dev eth0 src 10.88.0.5",
            "ip route add blackhole 240.0.0.0/8",
            "ip route add 172.16.0.0/12 via 10.88.0.9 table 77",
            "ip route add 100.64.0.0/10 dev lo",
            "ip -6 route add default via fd00::1",
            "ip neighbour add 10.88.0.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
        ] {
            run(line);
        }
        let socket = Socket::open().unwrap();
        let found = links::read(&socket).unwrap();
        let (network, notes) = read::network(&socket, &found).unwrap();
        let Interface { device, name, mac, mtu, up, addresses } = &network.interfaces[0];
        assert_eq!((*device, name.as_str(), *mtu, *up), (0, "eth0", 1400, true));
        assert_eq!(mac, &[2, 0x42, 0, 0, 0, 5]);
        let all: Vec<_> = addresses
            .iter()
            .map(|one| (format!("{}/{}", one.ip, one.prefix), one.no_route))
            .filter(|(ip, _)| !ip.starts_with("fe80"))
            .collect();
        let wanted = [
            ("10.88.0.5/16", false),
            ("192.0.2.5/24", true),
            ("10.88.0.6/16", false),
            ("fd00::5/64", false),
        ];
        assert_eq!(all, wanted.map(|(ip, no_route)| (ip.to_owned(), no_route)));
        assert_eq!(addresses[0].broadcast, Some([10, 88, 255, 255].into()));
        let routes: Vec<String> = network.routes.iter().map(ToString::to_string).collect();
        assert_eq!(
            routes,
            [
                "198.51.100.0/24",
                "240.0.0.0/8",
                "0.0.0.0/0 via 10.88.0.1",
                "203.0.113.0/24 via 198.18.0.1",
                "::/0 via fd00::1"
            ]
        );
        assert_eq!((network.routes[2].metric, network.routes[3].mtu), (Some(100), Some(1300)));
        assert!(network.routes[3].on_link && network.routes[1].device.is_none());
        assert_eq!(network.routes[0].source, Some([10, 88, 0, 5].into()));
        assert_eq!(network.neighbours.len(), 1, "{:?}", network.neighbours);
        assert_eq!(network.neighbours[0].mac, [2, 0, 0, 0, 0, 0x99]);
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("table 77")), "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("100.64.0.0/10")), "{notes:?}");
    });
}

/// A socket that sees an interface's frames.
fn frames_of(name: &str) -> OwnedFd {
    let every = rustix::net::Protocol::from_raw(u32::from(3_u16.to_be()).try_into().unwrap());
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(every),
    )
    .unwrap();
    let index = rustix::net::netdevice::name_to_index(&socket, name).unwrap();
    // SAFETY: all zeros are a `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = 17;
    address.sll_protocol = 3_u16.to_be();
    address.sll_ifindex = i32::try_from(index).unwrap();
    // SAFETY: the address is a `sockaddr_ll` of this length.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap(),
        )
    };
    assert_eq!(bound, 0);
    socket
}

/// An Ethernet frame of an experimental type (IEEE 802).
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend(text.as_bytes());
    frame.resize(80, 0);
    frame
}

/// Opens a tap as the VMM does.
fn hold(name: &str) -> File {
    let tun = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&0x5002_u16.to_ne_bytes());
    // SAFETY: the kernel reads and writes a `struct ifreq` of 40 bytes.
    assert_eq!(unsafe { libc::ioctl(tun.as_raw_fd(), 0x4004_54ca, request.as_mut_ptr()) }, 0);
    tun
}

/// Tries until it has come about.
#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn frames_pass_both_ways() {
    in_a_namespace(|| {
        veth("eth0", "far0");
        run("ip address add 10.88.0.5/16 dev eth0");
        let network = Network::take("a container").unwrap();
        assert!(network.notes.is_empty(), "{:?}", network.notes);
        let tap = network.nics[0].tap.clone().unwrap();
        assert!(run("ip -details link show").contains("bulkhead eth0 a container"));
        let mut tun = hold(&tap);
        rustix::io::ioctl_fionbio(&tun, true).unwrap();
        let far = frames_of("far0");
        rustix::io::ioctl_fionbio(&far, true).unwrap();
        // An interface whose link has just come up loses what is sent before the kernel has noticed.
        let mut bytes = [0; 2048];
        until("a frame to the guest", || {
            rustix::net::send(&far, &frame("to the guest"), SendFlags::empty()).unwrap();
            // Others may be there, of the host's own making.
            let mut read = || tun.read(&mut bytes).ok().map(|length| bytes[..length].to_vec());
            iter::from_fn(&mut read).any(|read| read.ends_with(&frame("to the guest")))
        });
        until("a frame from the guest", || {
            // Behind a header of ten zeros.
            (&tun).write_all(&[&[0; 10], &*frame("from the guest")].concat()).unwrap();
            let mut read = || {
                let (_, length) = rustix::net::recv(&far, &mut bytes, RecvFlags::empty()).ok()?;
                Some(bytes[..length].to_vec())
            };
            iter::from_fn(&mut read).any(|read| read == frame("from the guest"))
        });
        drop(tun);
        release("another container").unwrap();
        assert!(run("ip link show").contains(&tap));
        release("a container").unwrap();
        assert!(!run("ip link show").contains(&tap));
        assert!(!run("tc qdisc show").contains("ingress"));
    });
}

#[test]
fn what_a_killed_process_left_is_replaced() {
    in_a_namespace(|| {
        veth("eth0", "far0");
        let first = Network::take("first").unwrap();
        // Nobody holds its tap: the namespace is the next one's.
        let second = Network::take("second").unwrap();
        assert_ne!(first.nics, second.nics);
        let all = run("ip link show");
        assert!(!all.contains(first.nics[0].tap.as_ref().unwrap()), "{all}");
        assert_eq!(Network::take("second").unwrap().nics, second.nics);
        run("ip link delete eth0");
        assert!(Network::take("second").unwrap().guest.is_none());
        assert!(!run("ip link show").contains("bh"));
    });
}

#[test]
fn two_microvms_cannot_have_one_network() {
    in_a_namespace(|| {
        veth("eth0", "far0");
        let first = Network::take("first").unwrap();
        let held = hold(first.nics[0].tap.as_ref().unwrap());
        let error = Network::take("second").unwrap_err().to_string();
        assert!(error.contains("container first"), "{error}");
        drop(held);
        assert!(Network::take("second").unwrap().guest.is_some());
    });
}

#[test]
fn a_discipline_of_somebody_else_is_told_of() {
    in_a_namespace(|| {
        veth("eth0", "far0");
        run("tc qdisc add dev eth0 ingress");
        let error = Network::take("one").unwrap_err().to_string();
        assert!(error.contains("eth0") && error.contains("tc qdisc show"), "{error}");
        release("one").unwrap();
    });
}

#[test]
fn an_interface_without_an_address_gets_its_tap_and_an_empty_namespace_none() {
    in_a_namespace(|| {
        assert!(Network::take("one").unwrap().nics.is_empty());
        run("ip link add eth0 type veth peer name net1");
        let network = Network::take("one").unwrap();
        let names: Vec<_> = network
            .guest
            .unwrap()
            .interfaces
            .into_iter()
            .map(|one| (one.name, one.up, one.addresses.len()))
            .collect();
        assert_eq!(names, [("eth0".to_owned(), false, 0), ("net1".to_owned(), false, 0)]);
        assert_eq!(network.nics.len(), 2);
    });
}

#[test]
fn left_overs_are_removed_from_outside() {
    // A process keeps the namespace.
    let mut keeper = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo ready; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    keeper.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let path = format!("/proc/{}/ns/net", keeper.id());
    let namespace = File::open(&path).unwrap();
    assert!(!is_hosts(&namespace));
    assert!(is_hosts(&File::open("/proc/thread-self/ns/net").unwrap()));
    let there = thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        veth("eth0", "far0");
        Network::take("one").unwrap();
        let names = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(names().contains("bh"), "{}", names());
        remove(Path::new(&path), "one").unwrap();
        assert!(!names().contains("bh"), "{}", names());
    });
    there.join().unwrap();
    drop(keeper.stdin.take());
    keeper.wait().unwrap();
    let gone = format!("/proc/{}/ns/net", keeper.id());
    remove(Path::new(&gone), "one").unwrap();
    remove(Path::new("/dev/null"), "one").unwrap();
}

#[test]
fn networks_of_addresses() {
    for (ip, prefix, wanted) in [
        ("10.1.2.3", 8, "10.0.0.0"),
        ("10.1.2.3", 0, "0.0.0.0"),
        ("10.1.2.3", 32, "10.1.2.3"),
        ("fd00::1:2", 64, "fd00::"),
        ("fd00::1", 0, "::"),
        ("fd00::1", 128, "fd00::1"),
    ] {
        let [ip, wanted] = [ip, wanted].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(network_of(ip, prefix), wanted, "{ip}/{prefix}");
    }
}

proptest! {
    /// Whatever a message holds and wherever it ends, reading it ends, and what is read keeps to its family.
    #[test]
    fn messages_of_any_kind_are_survived(kind in prop::sample::select(vec![20_u16, 24, 28, 16]), body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut batch = Batch::default();
        batch.message(kind, 0, &body);
        for message in messages(batch.bytes()) {
            if let Some(entry) = AddressEntry::of(&message) {
                prop_assert_eq!(Family::of(entry.ip).0, body[0]);
                prop_assert!(entry.prefix <= entries::bits(entry.ip));
            }
            if let Some(entry) = RouteEntry::of(&message) {
                prop_assert_eq!(Family::of(entry.destination).0, body[0]);
            }
            if let Some(entry) = NeighbourEntry::of(&message) {
                prop_assert_eq!(Family::of(entry.ip).0, body[0]);
            }
        }
    }

    /// The same, of attributes that are whole.
    #[test]
    fn routes_of_any_attributes_are_survived(list in prop::collection::vec((0_u16..32, prop::collection::vec(any::<u8>(), 0..40)), 0..8)) {
        let mut batch = Batch::default();
        let mut message = batch.message(24, 0, &[2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
        for (kind, value) in &list {
            message.attribute(*kind, value);
        }
        let message = messages(batch.bytes()).next().unwrap();
        prop_assert_eq!(attributes(message.body, 12).count(), list.len());
        if let Some(entry) = RouteEntry::of(&message) {
            prop_assert!(entry.destination.is_ipv4());
        }
    }
}
