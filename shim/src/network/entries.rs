//! What the kernel says of addresses, routes and neighbours, one message each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_netlink::{Attribute, Family, Parsed, attributes};

/// An address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressEntry {
    pub(super) interface: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
    pub(super) scope: u8,
    pub(super) peer: Option<IpAddr>,
    pub(super) broadcast: Option<Ipv4Addr>,
    /// `IFA_F_…`.
    pub(super) flags: u32,
}

impl AddressEntry {
    pub(super) fn of(message: &Parsed<'_>) -> Option<Self> {
        /// Bytes of `struct ifaddrmsg`.
        const FIXED: usize = 8;
        let &[family, prefix, flags, scope, a, b, c, d] = message.body.first_chunk::<FIXED>()?;
        let interface = u32::from_ne_bytes([a, b, c, d]);
        let (mut local, mut address, mut broadcast) = (None, None, None);
        let mut flags = u32::from(flags);
        for attribute in attributes(message.body, FIXED) {
            match attribute.kind {
                libc::IFA_LOCAL => local = attribute.ip(),
                libc::IFA_ADDRESS => address = attribute.ip(),
                libc::IFA_BROADCAST => broadcast = attribute.ip(),
                libc::IFA_FLAGS => flags = attribute.number()?,
                _ => {}
            }
        }
        let ip = local.or(address)?;
        let known = message.kind == libc::RTM_NEWADDR
            && Family::of(ip).0 == family
            && prefix <= bits(ip)
            && address.is_none_or(|address| address.is_ipv4() == ip.is_ipv4());
        let broadcast = match broadcast {
            Some(IpAddr::V4(broadcast)) => Some(broadcast),
            _ => None,
        };
        let peer = address.filter(|&address| address != ip);
        known.then_some(Self { interface, ip, prefix, scope, peer, broadcast, flags })
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteEntry {
    pub(super) table: u32,
    pub(super) destination: IpAddr,
    pub(super) prefix: u8,
    pub(super) kind: u8,
    pub(super) scope: u8,
    pub(super) origin: u8,
    /// `RTM_F_…` and `RTNH_F_…`.
    pub(super) flags: u32,
    pub(super) gateway: Option<IpAddr>,
    pub(super) interface: Option<u32>,
    pub(super) source: Option<IpAddr>,
    pub(super) metric: Option<u32>,
    pub(super) mtu: Option<u32>,
    /// It has something that a guest's route cannot have: one of several next hops was taken, or a rule beside the destination.
    pub(super) simplified: bool,
}

impl RouteEntry {
    pub(super) fn of(message: &Parsed<'_>) -> Option<Self> {
        /// Bytes of `struct rtmsg`.
        const FIXED: usize = 12;
        /// linux/rtnetlink.h.
        const TABLE: u16 = 15;
        const METRIC_MTU: u16 = 2;
        const ENCAPSULATION: u16 = 21;
        let &[family, prefix, from, service, table, origin, scope, kind, a, b, c, d] =
            message.body.first_chunk::<FIXED>()?;
        let any = match Family(family) {
            Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let mut route = Self {
            table: table.into(),
            destination: any,
            prefix,
            kind,
            scope,
            origin,
            flags: u32::from_ne_bytes([a, b, c, d]),
            gateway: None,
            interface: None,
            source: None,
            metric: None,
            mtu: None,
            simplified: from != 0 || service != 0,
        };
        for attribute in attributes(message.body, FIXED) {
            match attribute.kind {
                TABLE => route.table = attribute.number()?,
                libc::RTA_DST => route.destination = attribute.ip()?,
                libc::RTA_PREFSRC => route.source = attribute.ip(),
                libc::RTA_PRIORITY => route.metric = attribute.number(),
                libc::RTA_METRICS => {
                    let mtu = attribute.nested().find(|one| one.kind == METRIC_MTU);
                    route.mtu = mtu.and_then(|mtu| mtu.number());
                }
                ENCAPSULATION => route.simplified = true,
                libc::RTA_MULTIPATH => {
                    route.simplified = true;
                    route.first_hop(attribute.value)?;
                }
                _ => route.hop(&attribute),
            }
        }
        let known = message.kind == libc::RTM_NEWROUTE
            && route.destination.is_ipv4() == any.is_ipv4()
            && prefix <= bits(any);
        known.then_some(route)
    }

    /// Takes what says where the next hop is.
    fn hop(&mut self, attribute: &Attribute<'_>) {
        /// linux/rtnetlink.h: `struct rtvia` is a family and an address.
        const VIA: u16 = 18;
        match attribute.kind {
            libc::RTA_OIF => self.interface = attribute.number(),
            libc::RTA_GATEWAY => self.gateway = attribute.ip(),
            VIA => {
                let value = attribute.value.get(2..).unwrap_or_default();
                self.gateway = Attribute { kind: VIA, value }.ip();
            }
            _ => {}
        }
    }

    /// The first `struct rtnexthop` of several.
    fn first_hop(&mut self, hops: &[u8]) -> Option<()> {
        /// Its bytes before its attributes.
        const FIXED: usize = 8;
        let &[a, b, flags, _, c, d, e, f] = hops.first_chunk::<FIXED>()?;
        let hop = hops.get(..usize::from(u16::from_ne_bytes([a, b])))?;
        self.flags |= u32::from(flags);
        self.interface = Some(u32::from_ne_bytes([c, d, e, f]));
        attributes(hop, FIXED).for_each(|attribute| self.hop(&attribute));
        Some(())
    }
}

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NeighbourEntry {
    pub(super) interface: u32,
    pub(super) ip: IpAddr,
    pub(super) mac: [u8; 6],
}

impl NeighbourEntry {
    /// One that stays.
    pub(super) fn of(message: &Parsed<'_>) -> Option<Self> {
        /// Bytes of `struct ndmsg`.
        const FIXED: usize = 12;
        let &[family, _, _, _, a, b, c, d, low, high, flags, _] =
            message.body.first_chunk::<FIXED>()?;
        let state = u16::from_ne_bytes([low, high]);
        let (mut ip, mut mac) = (None, None);
        for attribute in attributes(message.body, FIXED) {
            match attribute.kind {
                libc::NDA_DST => ip = attribute.ip(),
                libc::NDA_LLADDR => mac = attribute.mac(),
                _ => {}
            }
        }
        let (ip, mac) = (ip?, mac?);
        let known = message.kind == libc::RTM_NEWNEIGH
            && Family::of(ip).0 == family
            && state & libc::NUD_PERMANENT != 0
            && flags & libc::NTF_PROXY == 0;
        known.then_some(Self { interface: u32::from_ne_bytes([a, b, c, d]), ip, mac })
    }
}

/// Of an address of this family.
pub(super) fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address of the network that `ip` is in.
pub(super) fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    let hosts = u32::from(bits(ip).saturating_sub(prefix));
    match ip {
        IpAddr::V4(ip) => {
            Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(hosts).unwrap_or(0)).into()
        }
        IpAddr::V6(ip) => {
            Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(hosts).unwrap_or(0)).into()
        }
    }
}
