//! Reads addresses, routes and neighbours of the interfaces that a guest gets.

use std::net::IpAddr;

use bulkhead_netlink::{self as netlink, Family, Socket};
use bulkhead_protocol::{
    Network,
    network::{
        Address, Interface, MAX_ADDRESSES, MAX_NEIGHBOURS, MAX_ROUTES, Neighbour,
        NetworkError as Unfit, Route,
    },
};

use super::{
    Known,
    entries::{AddressEntry, NeighbourEntry, RouteEntry, bits, network as network_of},
    error::NetworkError,
    links::{Link, Links},
};

/// linux/if_addr.h: another host has it already; a temporary one, which the kernel makes by itself.
const DOUBLE: u32 = 0x08;
const TEMPORARY: u32 = 0x01;
/// `IFA_F_NOPREFIXROUTE`.
const NO_PREFIX_ROUTE: u32 = 0x200;
/// linux/rtnetlink.h: a route's table, flags, and origin.
const MAIN: u32 = 254;
const LOCAL: u32 = 255;
const CLONED: u32 = 0x200;
const DEAD: u32 = 1;
const ON_LINK: u32 = 4;
/// What there may be, and how much of it.
type Most = (&'static str, usize);
const ADDRESSES: Most = ("addresses", MAX_ADDRESSES);
/// Those that the kernel has made itself count, too.
const ROUTES: Most = ("routes", MAX_ROUTES + MAX_ADDRESSES);
const NEIGHBOURS: Most = ("permanent neighbours", MAX_NEIGHBOURS);
/// The most addresses, and routes, of the host that are looked at.
const MOST_KNOWN: usize = 1 << 16;
/// The most lines about what is left out.
const MOST_NOTES: usize = 16;

/// What the kernel says of a namespace.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) addresses: Vec<AddressEntry>,
    pub(super) routes: Vec<RouteEntry>,
    pub(super) neighbours: Vec<NeighbourEntry>,
}

impl Links {
    fn has(&self, index: u32) -> bool {
        self.links.iter().any(|link| link.index == index)
    }

    /// What a message says of an address, route or neighbour, where it matters for these interfaces.
    fn address(&self, message: &netlink::Parsed<'_>) -> Option<AddressEntry> {
        AddressEntry::of(message).filter(|entry| self.has(entry.interface))
    }

    fn route(message: &netlink::Parsed<'_>) -> Option<RouteEntry> {
        RouteEntry::of(message).filter(|entry| entry.table != LOCAL)
    }

    fn neighbour(&self, message: &netlink::Parsed<'_>) -> Option<NeighbourEntry> {
        NeighbourEntry::of(message).filter(|entry| self.has(entry.interface))
    }
}

impl Entries {
    /// Of messages of all kinds.
    pub(super) fn of(links: &Links, said: &[u8]) -> Result<Self, NetworkError> {
        let mut all = Self::default();
        for message in netlink::messages(said) {
            add(&mut all.addresses, links.address(&message), ADDRESSES)?;
            add(&mut all.routes, Links::route(&message), ROUTES)?;
            add(&mut all.neighbours, links.neighbour(&message), NEIGHBOURS)?;
        }
        Ok(all)
    }
}

/// The network of these interfaces, and what a guest does not get of it.
pub(super) fn network(
    socket: &Socket,
    links: &Links,
) -> Result<(Network, Vec<String>), NetworkError> {
    let addresses = list(
        socket,
        (libc::RTM_GETADDR, &netlink::address(Family::UNSPEC, 0, 0, 0)),
        ADDRESSES,
        |message| links.address(message),
    )?;
    let routes = list(
        socket,
        (libc::RTM_GETROUTE, &netlink::route(Family::UNSPEC, 0, [0; 4], 0)),
        ROUTES,
        Links::route,
    )?;
    let neighbours = list(
        socket,
        (libc::RTM_GETNEIGH, &netlink::neighbour(Family::UNSPEC, 0, 0, 0)),
        NEIGHBOURS,
        |message| links.neighbour(message),
    )?;
    let (network, notes) = of(links, &Entries { addresses, routes, neighbours });
    network.check()?;
    Ok((network, notes))
}

/// The addresses and routes of IPv4 in a namespace.
pub(super) fn known(socket: &Socket) -> Result<Vec<Known>, NetworkError> {
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    let mut all = list(
        socket,
        (libc::RTM_GETADDR, &netlink::address(Family::V4, 0, 0, 0)),
        ("addresses", MOST_KNOWN),
        |message| {
            let AddressEntry { ip, prefix, interface, .. } = AddressEntry::of(message)?;
            Some(Known { ip: v4(ip)?, prefix, interface: Some(interface) })
        },
    )?;
    all.extend(list(
        socket,
        (libc::RTM_GETROUTE, &netlink::route(Family::V4, 0, [0; 4], 0)),
        ("routes", MOST_KNOWN),
        |message| {
            let route = RouteEntry::of(message).filter(|route| route.table != LOCAL)?;
            Some(Known { ip: v4(route.destination)?, prefix: route.prefix, interface: None })
        },
    )?);
    Ok(all)
}

fn list<T>(
    socket: &Socket,
    (kind, fixed): (u16, &[u8]),
    most: Most,
    wanted: impl Fn(&netlink::Parsed<'_>) -> Option<T>,
) -> Result<Vec<T>, NetworkError> {
    socket.dump(kind, fixed, Vec::new, |all, message| add(all, wanted(&message), most))
}

fn add<T>(all: &mut Vec<T>, one: Option<T>, (what, most): Most) -> Result<(), NetworkError> {
    all.extend(one);
    if all.len() > most {
        return Err(Unfit::TooMany { what, count: all.len(), most }.into());
    }
    Ok(())
}

/// Makes of what the kernel says what the agent is asked for.
pub(super) fn of(links: &Links, entries: &Entries) -> (Network, Vec<String>) {
    let mut notes = Vec::new();
    let interface = |(device, link): (u8, &Link)| Interface {
        device,
        name: link.name.clone(),
        mac: link.mac,
        mtu: link.mtu,
        up: link.up,
        addresses: addresses(link, entries),
    };
    let interfaces = (0..).zip(&links.links).map(interface).collect();
    let device = |index: u32| {
        (0_u8..).zip(&links.links).find(|(_, link)| link.index == index).map(|found| found.0)
    };
    let mut routes: Vec<Route> =
        entries.routes.iter().filter_map(|entry| route(entry, device, &mut notes)).collect();
    // Gateways are reached by routes that have none. The order is otherwise the kernel's.
    routes.sort_by_key(|route| route.gateway.is_some());
    let neighbour = |entry: &NeighbourEntry| {
        let NeighbourEntry { interface, ip, mac } = *entry;
        Some(Neighbour { device: device(interface)?, ip, mac })
    };
    let neighbours = entries.neighbours.iter().filter_map(neighbour).collect();
    (Network { interfaces, routes, neighbours, name_servers: Vec::new() }, notes)
}

fn addresses(link: &Link, entries: &Entries) -> Vec<Address> {
    let own = entries.addresses.iter().filter(|entry| entry.interface == link.index);
    let good = own.filter(|entry| {
        // In IPv4 the second one stands for a further address of a network.
        entry.ip.is_ipv4() || entry.flags & (DOUBLE | TEMPORARY) == 0
    });
    good.map(|entry| Address {
        ip: entry.ip,
        prefix: entry.prefix,
        scope: entry.scope,
        peer: entry.peer,
        broadcast: entry.broadcast,
        no_route: entry.flags & NO_PREFIX_ROUTE != 0 || lacks_route(link, entry, entries),
    })
    .collect()
}

/// The kernel's own route to an address's network was taken away, as some network plugins do to send all through a gateway.
fn lacks_route(link: &Link, entry: &AddressEntry, entries: &Entries) -> bool {
    let destination = network_of(entry.peer.unwrap_or(entry.ip), entry.prefix);
    let there = |route: &RouteEntry| {
        route.origin == libc::RTPROT_KERNEL
            && route.interface == Some(link.index)
            && (route.destination, route.prefix) == (destination, entry.prefix)
    };
    link.up && entry.prefix < bits(entry.ip) && !entries.routes.iter().any(there)
}

/// A route for the guest, if it can have it and does not make it by itself.
fn route(
    entry: &RouteEntry,
    device: impl Fn(u32) -> Option<u8>,
    notes: &mut Vec<String>,
) -> Option<Route> {
    const KINDS: [u8; 5] = [
        libc::RTN_UNICAST,
        libc::RTN_BLACKHOLE,
        libc::RTN_UNREACHABLE,
        libc::RTN_PROHIBIT,
        libc::RTN_THROW,
    ];
    let made = [libc::RTPROT_KERNEL, libc::RTPROT_REDIRECT].contains(&entry.origin);
    if made || !KINDS.contains(&entry.kind) || entry.flags & (CLONED | DEAD) != 0 {
        return None;
    }
    let unicast = entry.kind == libc::RTN_UNICAST;
    let route = Route {
        destination: entry.destination,
        prefix: entry.prefix,
        kind: entry.kind,
        scope: entry.scope,
        origin: entry.origin,
        gateway: entry.gateway.filter(|_| unicast),
        device: entry.interface.filter(|_| unicast).and_then(device),
        source: entry.source,
        metric: entry.metric.filter(|&metric| metric != 0),
        mtu: entry.mtu,
        on_link: entry.flags & ON_LINK != 0,
    };
    let why = if entry.table != MAIN {
        Some(format!("is in table {} and left out", entry.table))
    } else if unicast && route.device.is_none() {
        Some("goes through an interface that the microVM does not get".into())
    } else if entry.simplified {
        Some("has more than a destination and one next hop; only these are taken".into())
    } else {
        None
    };
    let taken = entry.table == MAIN && !(unicast && route.device.is_none());
    if let Some(why) = why.filter(|_| notes.len() < MOST_NOTES) {
        notes.push(format!("the route {route} {why}"));
    }
    taken.then_some(route)
}
