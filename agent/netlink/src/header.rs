//! The fixed parts of messages (linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h, linux/pkt_sched.h).

use std::net::IpAddr;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family(pub u8);

impl Family {
    /// Neither.
    pub const UNSPEC: Self = Self(0);
    /// IPv4.
    pub const V4: Self = Self(2);
    /// IPv6.
    pub const V6: Self = Self(10);

    /// Of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// `struct ifinfomsg`: the interface's index, and of its flags those in `change` as they are in `flags`.
#[must_use]
pub fn link(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// `struct ifaddrmsg`.
#[must_use]
pub fn address(family: Family, prefix: u8, scope: u8, index: u32) -> [u8; 8] {
    let [a, b, c, d] = index.to_ne_bytes();
    [family.0, prefix, 0, scope, a, b, c, d]
}

/// `struct rtmsg`: the length of the destination's prefix, table, origin, scope, type and flags of a route.
#[must_use]
pub fn route(
    family: Family,
    prefix: u8,
    [table, protocol, scope, kind]: [u8; 4],
    flags: u32,
) -> [u8; 12] {
    let [a, b, c, d] = flags.to_ne_bytes();
    [family.0, prefix, 0, 0, table, protocol, scope, kind, a, b, c, d]
}

/// `struct ndmsg`.
#[must_use]
pub fn neighbour(family: Family, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family.0;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes[10] = flags;
    bytes
}

/// `struct tcmsg`: traffic control of the interface with this index.
#[must_use]
pub fn traffic(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (field, value) in bytes[4..].chunks_exact_mut(4).zip([index, handle, parent, info]) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}
