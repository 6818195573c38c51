//! The container's network: makes of the guest's network cards the interfaces that the container has on the host. One message to the
//! kernel holds all changes: what it costs is the kernel's work on them and nothing else.

use std::{
    fmt,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use bulkhead_netlink::{self as netlink, Batch, Family, Refused, Socket};
use bulkhead_protocol::{
    Failure, Network,
    network::{Address, Interface, Neighbour, Route},
};
use rustix::{
    io::Errno,
    process::Pid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

mod cards;

pub(crate) use self::cards::Cards;
use crate::{
    answer::{invalid, system},
    boot, resolver,
};

/// linux/netlink.h.
const CREATE: u16 = 0x400;
const REPLACE: u16 = 0x100;
const APPEND: u16 = 0x800;
/// Makes the kernel find an address usable at once: the host has seen already that nobody else has it (`IFA_F_NODAD`).
const NO_DETECTION: u32 = 0x02;
/// `IFA_F_NOPREFIXROUTE`.
const NO_PREFIX_ROUTE: u32 = 0x200;
/// An interface with a smaller MTU has no IPv6 (RFC 8200, section 5).
const IPV6_MTU: u32 = 1280;

/// Something that the kernel is asked to make.
enum What<'a> {
    Interface(&'a Interface),
    Address(&'a Address, &'a Interface),
    Route(&'a Route),
    Neighbour(&'a Neighbour),
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(interface) => {
                let Interface { name, mtu, .. } = interface;
                write!(f, "the interface {name} with an MTU of {mtu}")
            }
            Self::Address(Address { ip, prefix, .. }, interface) => {
                write!(f, "the address {ip}/{prefix} of {}", interface.name)
            }
            Self::Route(route) => write!(f, "the route {route}"),
            Self::Neighbour(Neighbour { ip, .. }) => write!(f, "the neighbour {ip}"),
        }
    }
}

/// Configures a container's network cards in this process's network namespace. Returns the sockets of its name servers.
pub(crate) fn configure(cards: &Cards, network: &Network) -> Result<Vec<OwnedFd>, Failure> {
    check(network)?;
    cards.show(network)?;
    apply(&open()?, network)?;
    resolver::listen(&network.name_servers)
}

/// Moves a container's network cards into the network namespace of a process, and configures them there.
pub(crate) fn hand_over(
    cards: &Cards,
    network: &Network,
    to: Pid,
) -> Result<Vec<OwnedFd>, Failure> {
    check(network)?;
    boot::needs_proc()?;
    move_to(cards, network, to)
}

fn move_to(cards: &Cards, network: &Network, to: Pid) -> Result<Vec<OwnedFd>, Failure> {
    cards.give(network, to)?;
    let there = || (Socket::open(), resolver::listen(&network.name_servers));
    let (socket, name_servers) =
        inside(to, there).map_err(|errno| refused("reach the container's network", errno))?;
    let socket = socket.map_err(|errno| refused("make a netlink socket", errno))?;
    apply(&socket, network)?;
    name_servers
}

fn check(network: &Network) -> Result<(), Failure> {
    if !boot::is_guest() {
        return Err(invalid("only a guest has network cards".to_owned()));
    }
    network.check().map_err(|error| invalid(format!("the container's network: {error}")))
}

fn refused(what: impl fmt::Display, errno: Errno) -> Failure {
    system(format!("cannot {what}: {errno}"))
}

fn open() -> Result<Socket, Failure> {
    Socket::open().map_err(|errno| refused("make a netlink socket", errno))
}

/// Does something in the network namespace of a process. Sockets stay in the one that they were made in.
pub(crate) fn inside<T>(process: Pid, body: impl FnOnce() -> T) -> Result<T, Errno> {
    use rustix::fs::{Mode, OFlags, open};
    let namespace =
        |whose: &str| open(format!("/proc/{whose}/ns/net"), OFlags::CLOEXEC, Mode::empty());
    let kind = Some(LinkNameSpaceType::Network);
    let own = namespace("thread-self")?;
    move_into_link_name_space(namespace(&process.to_string())?.as_fd(), kind)?;
    let done = body();
    move_into_link_name_space(own.as_fd(), kind)?;
    Ok(done)
}

/// The numbers of the network cards, which still have the kernel's names.
fn indexes(socket: &Socket, network: &Network) -> Result<Vec<u32>, Failure> {
    let of = |interface: &Interface| {
        let name = device_name(interface.device);
        socket.index(&name).map_err(|errno| match errno {
            Errno::NODEV => invalid(format!("the guest has no network card {name}")),
            errno => refused(format_args!("look for the network card {name}"), errno),
        })
    };
    network.interfaces.iter().map(of).collect()
}

fn device_name(device: u8) -> String {
    format!("eth{device}")
}

fn apply(socket: &Socket, network: &Network) -> Result<(), Failure> {
    let indexes = indexes(socket, network)?;
    let (batch, what) = changes(network, &indexes);
    socket.change(batch).map_err(|Refused { index, errno }| {
        match usize::try_from(index).ok().and_then(|index| what.get(index)) {
            Some(what) => refused(format_args!("make {what}"), errno),
            None => refused("configure the network", errno),
        }
    })
}

/// All changes, and what each is for. `indexes` are those of the interfaces.
fn changes<'a>(network: &'a Network, indexes: &[u32]) -> (Batch, Vec<What<'a>>) {
    let mut batch = Batch::default();
    let mut what = Vec::new();
    let interfaces = || network.interfaces.iter().zip(indexes.iter().copied());
    for (interface, index) in interfaces() {
        what.push(What::Interface(interface));
        prepare(&mut batch, interface, index);
    }
    for (interface, index) in interfaces().filter(|(interface, _)| interface.up) {
        what.push(What::Interface(interface));
        let up = libc::IFF_UP.unsigned_abs();
        batch.message(libc::RTM_NEWLINK, 0, &netlink::link(index, up, up));
    }
    for (interface, index) in interfaces() {
        for address in &interface.addresses {
            what.push(What::Address(address, interface));
            add_address(&mut batch, address, index);
        }
    }
    let index = |device: u8| {
        interfaces().find(|(interface, _)| interface.device == device).map_or(0, |found| found.1)
    };
    for route in &network.routes {
        what.push(What::Route(route));
        add_route(&mut batch, route, route.device.map(index));
    }
    for neighbour in &network.neighbours {
        what.push(What::Neighbour(neighbour));
        let Neighbour { ip, mac, device } = neighbour;
        let fixed = netlink::neighbour(Family::of(*ip), index(*device), libc::NUD_PERMANENT, 0);
        batch
            .message(libc::RTM_NEWNEIGH, CREATE | REPLACE, &fixed)
            .attribute(libc::NDA_DST, &octets(*ip))
            .attribute(libc::NDA_LLADDR, mac);
    }
    (batch, what)
}

/// Name, address and MTU, which an interface can get only while it is down. It gets no addresses of its own making: those of
/// the host are all that it has.
fn prepare(batch: &mut Batch, interface: &Interface, index: u32) {
    /// linux/if_link.h.
    const ADDRESS_MODE: u16 = 8;
    const MODE_NONE: u8 = 1;
    let mut message = batch.message(libc::RTM_NEWLINK, 0, &netlink::link(index, 0, 0));
    if interface.name != device_name(interface.device) {
        message.text(libc::IFLA_IFNAME, &interface.name);
    }
    message.attribute(libc::IFLA_ADDRESS, &interface.mac).number(libc::IFLA_MTU, interface.mtu);
    if interface.mtu >= IPV6_MTU {
        message.nested(libc::IFLA_AF_SPEC, |families| {
            families.nested(u16::from(Family::V6.0), |ipv6| {
                ipv6.attribute(ADDRESS_MODE, &[MODE_NONE]);
            });
        });
    }
}

fn add_address(batch: &mut Batch, address: &Address, index: u32) {
    let Address { ip, prefix, scope, peer, broadcast, no_route } = address;
    let fixed = netlink::address(Family::of(*ip), *prefix, *scope, index);
    let mut message = batch.message(libc::RTM_NEWADDR, CREATE | REPLACE, &fixed);
    message
        .attribute(libc::IFA_LOCAL, &octets(*ip))
        .attribute(libc::IFA_ADDRESS, &octets(peer.unwrap_or(*ip)));
    if let Some(broadcast) = broadcast {
        message.attribute(libc::IFA_BROADCAST, &broadcast.octets());
    }
    let detection = if ip.is_ipv6() { NO_DETECTION } else { 0 };
    let route = if *no_route { NO_PREFIX_ROUTE } else { 0 };
    message.number(libc::IFA_FLAGS, detection | route);
}

fn add_route(batch: &mut Batch, route: &Route, index: Option<u32>) {
    /// linux/rtnetlink.h.
    const MAIN: u8 = 254;
    const ON_LINK: u32 = 4;
    const VIA: u16 = 18;
    const METRIC_MTU: u16 = 2;
    let family = Family::of(route.destination);
    let flags = if route.on_link { ON_LINK } else { 0 };
    let numbers = [MAIN, route.origin, route.scope, route.kind];
    let fixed = netlink::route(family, route.prefix, numbers, flags);
    let mut message = batch.message(libc::RTM_NEWROUTE, CREATE | APPEND, &fixed);
    if route.prefix > 0 {
        message.attribute(libc::RTA_DST, &octets(route.destination));
    }
    match route.gateway {
        Some(gateway) if Family::of(gateway) == family => {
            message.attribute(libc::RTA_GATEWAY, &octets(gateway));
        }
        Some(gateway) => {
            let other = u16::from(Family::of(gateway).0).to_ne_bytes();
            message.attribute(VIA, &[&other, &*octets(gateway)].concat());
        }
        None => {}
    }
    if let Some(index) = index {
        message.number(libc::RTA_OIF, index);
    }
    if let Some(source) = route.source {
        message.attribute(libc::RTA_PREFSRC, &octets(source));
    }
    if let Some(metric) = route.metric {
        message.number(libc::RTA_PRIORITY, metric);
    }
    if let Some(mtu) = route.mtu {
        message.nested(libc::RTA_METRICS, |metrics| {
            metrics.number(METRIC_MTU, mtu);
        });
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

#[cfg(test)]
mod tests;
