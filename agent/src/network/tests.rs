//! With virtual interfaces for network cards, in network namespaces of the tests' own.

use std::{
    process::{Command, Stdio},
    thread,
};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;

use super::*;

/// Runs a test in a thread that is in an empty network namespace.
fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        // SAFETY: this thread's descriptors and memory stay as they are.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        test();
    };
    thread::spawn(body).join().unwrap();
}

#[track_caller]
fn ip(words: &str) -> Value {
    let output = Command::new("ip").arg("-json").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Two network cards, as the kernel names them, whose links are up.
fn cards() {
    for number in 0..2 {
        ip(&format!("link add eth{number} type veth peer name far{number}"));
        ip(&format!("link set far{number} up"));
    }
}

fn address(ip: &str, prefix: u8) -> Address {
    Address {
        ip: ip.parse().unwrap(),
        prefix,
        scope: 0,
        peer: None,
        broadcast: None,
        no_route: false,
    }
}

fn route(to: &str, prefix: u8) -> Route {
    Route {
        destination: to.parse().unwrap(),
        prefix,
        kind: 1,
        scope: 0,
        origin: 3,
        gateway: None,
        device: Some(0),
        source: None,
        metric: None,
        mtu: None,
        on_link: false,
    }
}

fn network() -> Network {
    let via = |to, prefix, gateway: &str| Route {
        gateway: Some(gateway.parse().unwrap()),
        ..route(to, prefix)
    };
    let broadcast =
        Address { broadcast: Some("10.88.255.255".parse().unwrap()), ..address("10.88.0.7", 16) };
    let local = Address { scope: 253, ..address("fe80::1234", 64) };
    let bare = Address { no_route: true, ..address("192.0.2.9", 24) };
    let interface = |device, name: &str, mtu, addresses| Interface {
        device,
        name: name.into(),
        mac: [2, 0xaa, 0, 0, 0, device],
        mtu,
        up: true,
        addresses,
    };
    Network {
        interfaces: vec![
            interface(0, "eth0", 1400, vec![broadcast, address("fd00::7", 64), local]),
            interface(1, "net1", 1000, vec![bare]),
        ],
        routes: vec![
            Route { scope: 253, ..route("198.51.100.1", 32) },
            via("0.0.0.0", 0, "10.88.0.1"),
            Route { on_link: true, mtu: Some(1300), ..via("203.0.113.0", 24, "198.18.0.1") },
            Route { metric: Some(50), ..via("::", 0, "fe80::1") },
            Route { source: Some("10.88.0.7".parse().unwrap()), ..route("198.51.100.0", 24) },
            Route { kind: libc::RTN_BLACKHOLE, device: None, ..route("240.0.0.0", 8) },
        ],
        neighbours: vec![Neighbour {
            device: 0,
            ip: "10.88.0.1".parse().unwrap(),
            mac: [2, 0, 0, 0, 0, 0x99],
        }],
        name_servers: Vec::new(),
    }
}

#[track_caller]
fn assert_configured() {
    let links = ip("address show dev eth0");
    assert_eq!(
        (&links[0]["mtu"], &links[0]["address"]),
        (&1400.into(), &"02:aa:00:00:00:00".into())
    );
    assert!(links[0]["flags"].as_array().unwrap().contains(&"UP".into()), "{links}");
    let addresses: Vec<String> = links[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            format!("{}/{}{}", one["local"].as_str().unwrap(), one["prefixlen"], one["tentative"])
        })
        .collect();
    assert_eq!(addresses.len(), 3, "none of its own making: {links}");
    for wanted in ["10.88.0.7/16null", "fd00::7/64null", "fe80::1234/64null"] {
        assert!(addresses.iter().any(|one| one == wanted), "{wanted}: {addresses:?}");
    }
    assert_eq!(links[0]["addr_info"][0]["broadcast"], "10.88.255.255");
    let other = ip("address show dev net1");
    assert_eq!(
        (&other[0]["mtu"], &other[0]["addr_info"][0]["local"]),
        (&1000.into(), &"192.0.2.9".into())
    );
    let routes = |words| {
        let routes = ip(words);
        let line = |route: &Value| {
            let field = |name: &str| route[name].as_str().map(str::to_owned);
            [field("type"), field("dst"), field("gateway"), field("prefsrc")]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" ")
        };
        routes.as_array().unwrap().iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        routes("route show"),
        [
            "default 10.88.0.1",
            "10.88.0.0/16 10.88.0.7",
            "198.51.100.0/24 10.88.0.7",
            "198.51.100.1",
            "203.0.113.0/24 198.18.0.1",
            "blackhole 240.0.0.0/8"
        ]
        .map(String::from),
        "{}",
        ip("route show")
    );
    let ipv6 = routes("-6 route show default");
    assert_eq!(ipv6, ["default fe80::1"]);
    let neighbours = ip("neighbour show nud permanent");
    assert_eq!(
        (&neighbours[0]["dst"], &neighbours[0]["lladdr"]),
        (&"10.88.0.1".into(), &"02:00:00:00:00:99".into())
    );
}

#[test]
fn a_network_is_made_as_it_was_on_the_host() {
    in_a_namespace(|| {
        cards();
        apply(&open().unwrap(), &network()).unwrap();
        assert_configured();
    });
}

#[test]
fn network_cards_go_to_a_container_with_a_network_of_its_own() {
    in_a_namespace(|| {
        cards();
        let mut other = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut ready).unwrap();
        move_to(&Cards::default(), &network(), Pid::from_child(&other)).unwrap();
        // The far ends are in it, and it lives as long as its socket.
        let home = open().unwrap();
        assert!(home.index("eth0").is_err());
        let theirs = rustix::fs::open(
            format!("/proc/{}/ns/net", other.id()),
            rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        move_into_link_name_space(theirs.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        assert_configured();
        drop(home);
        drop(other.stdin.take());
        other.wait().unwrap();
    });
}

#[test]
fn cards_out_of_sight_come_back_for_a_container() {
    in_a_namespace(|| {
        let mut cards = Cards::default();
        cards.hide().unwrap();
        // There was none to hide.
        self::cards();
        cards.hide().unwrap();
        let names = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(!names().contains("eth") && names().contains("far0"), "{}", names());
        // SAFETY: takes no pointers.
        let thread = unsafe { libc::gettid() };
        cards.give(&network(), Pid::from_raw(thread).unwrap()).unwrap();
        apply(&open().unwrap(), &network()).unwrap();
        assert_configured();
    });
}

#[test]
fn what_cannot_be_made_is_named() {
    in_a_namespace(|| {
        let mut network = network();
        let missing = apply(&open().unwrap(), &network).unwrap_err();
        assert_eq!(missing.message, "the guest has no network card eth0");
        cards();
        network.interfaces[1].name = "eth1".into();
        network.routes[1].gateway = Some("172.16.0.1".parse().unwrap());
        let failure = apply(&open().unwrap(), &network).unwrap_err();
        let wanted = "cannot make the route 0.0.0.0/0 via 172.16.0.1: ";
        assert!(failure.message.starts_with(wanted), "{failure}");
        network.interfaces[1].mtu = 7;
        let failure = apply(&open().unwrap(), &network).unwrap_err();
        let wanted = "cannot make the interface eth1 with an MTU of 7: ";
        assert!(failure.message.starts_with(wanted), "{failure}");
    });
}

#[test]
fn only_a_guest_has_network_cards() {
    let failure = configure(&Cards::default(), &Network::default()).unwrap_err();
    assert_eq!(failure.message, "only a guest has network cards");
}
