//! A container's network, as the monitor found it in a network namespace of the host and the agent makes it in the guest.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};

/// The most interfaces of a container.
pub const MAX_INTERFACES: usize = 8;
/// The most addresses of all its interfaces.
pub const MAX_ADDRESSES: usize = 256;
/// The most routes.
pub const MAX_ROUTES: usize = 1024;
/// The most permanent neighbours.
pub const MAX_NEIGHBOURS: usize = 1024;
/// The most name servers that are relayed: the resolver asks no more (resolv.conf(5)).
pub const MAX_NAME_SERVERS: usize = 3;
/// The longest question or answer of a name server that is relayed, in bytes.
pub const MAX_DATAGRAM: usize = 4096;
/// The longest name of an interface, in bytes (`IFNAMSIZ`, netdevice(7)).
pub const MAX_NAME: usize = 15;

/// A network, beside the loopback device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// At most [`MAX_INTERFACES`].
    pub interfaces: Vec<Interface>,
    /// In the order in which they can be added: who needs another one comes after it. At most [`MAX_ROUTES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// At most [`MAX_NEIGHBOURS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<Neighbour>,
    /// Loopback addresses at which name servers of the host's namespace listen: datagrams to their port 53 are relayed as
    /// [`Query`]. At most [`MAX_NAME_SERVERS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<Ipv4Addr>,
}

/// A datagram of the container to one of [`Network::name_servers`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Chosen by the agent; comes back with the answer.
    pub id: u64,
    /// Which server, from 0.
    pub server: u8,
    /// At most [`MAX_DATAGRAM`] bytes.
    pub datagram: Vec<u8>,
}

/// The datagram that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolved {
    /// [`Query::id`].
    pub id: u64,
    /// At most [`MAX_DATAGRAM`] bytes.
    pub datagram: Vec<u8>,
}

/// An Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Which network card it is: the VMM's first one is 0, and has the name `eth0` until it gets [`Interface::name`].
    /// An interface whose name is `eth` and the number of a card of this container is that card.
    pub device: u8,
    /// Its name, of at most [`MAX_NAME`] bytes.
    pub name: String,
    /// Its address on the wire.
    pub mac: [u8; 6],
    /// Its largest packet, in bytes.
    pub mtu: u32,
    /// It is up.
    pub up: bool,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
}

/// An address of an interface (rtnetlink(7), `struct ifaddrmsg`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// `RT_SCOPE_…`.
    pub scope: u8,
    /// The other end of a point-to-point connection, whose network it is then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// The network's broadcast address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<Ipv4Addr>,
    /// There is no route to its network (`IFA_F_NOPREFIXROUTE`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_route: bool,
}

/// A route of the main table (rtnetlink(7), `struct rtmsg`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its network's address; the unspecified one of its family and a [`Route::prefix`] of 0 are the default route.
    pub destination: IpAddr,
    /// Bits of the destination.
    pub prefix: u8,
    /// `RTN_…`: unicast, blackhole, unreachable, prohibit, throw.
    pub kind: u8,
    /// `RT_SCOPE_…`.
    pub scope: u8,
    /// Who made it: `RTPROT_…`.
    pub origin: u8,
    /// The next hop, which may be of the other family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The interface by its [`Interface::device`]; absent: none, or the loopback device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u8>,
    /// The address that packets come from unless they say another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The smallest one wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The largest packet on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The gateway is on the interface's link, whatever the addresses say (`RTNH_F_ONLINK`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_link: bool,
}

/// A permanent neighbour (arp(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// The interface by its [`Interface::device`].
    pub device: u8,
    /// Its address.
    pub ip: IpAddr,
    /// Its address on the wire.
    pub mac: [u8; 6],
}

/// What is wrong with a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Too many of something.
    #[error("{count} {what}; a microVM takes {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The most that can be.
        most: usize,
    },
    /// A name that no interface can have, or that another one has.
    #[error("{0:?} is no name of an interface, or two have it")]
    Name(String),
    /// A network card that is there twice, or that something names and no interface has.
    #[error("network card {0} is there twice or not at all")]
    Device(u8),
}

impl Network {
    /// Whether it is as this module says.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn check(&self) -> Result<(), NetworkError> {
        let addresses = self.interfaces.iter().map(|interface| interface.addresses.len()).sum();
        for (what, count, most) in [
            ("interfaces", self.interfaces.len(), MAX_INTERFACES),
            ("addresses", addresses, MAX_ADDRESSES),
            ("routes", self.routes.len(), MAX_ROUTES),
            ("permanent neighbours", self.neighbours.len(), MAX_NEIGHBOURS),
            ("name servers", self.name_servers.len(), MAX_NAME_SERVERS),
        ] {
            if count > most {
                return Err(NetworkError::TooMany { what, count, most });
            }
        }
        let known = |device: u8| self.interfaces.iter().filter(move |one| one.device == device);
        for Interface { device, name, .. } in &self.interfaces {
            let same = self.interfaces.iter().filter(|one| one.name == *name).count();
            if same != 1 || !is_name(name) {
                return Err(NetworkError::Name(name.clone()));
            }
            if usize::from(*device) >= MAX_INTERFACES || known(*device).count() != 1 {
                return Err(NetworkError::Device(*device));
            }
        }
        let routes = self.routes.iter().filter_map(|route| route.device);
        let neighbours = self.neighbours.iter().map(|neighbour| neighbour.device);
        match routes.chain(neighbours).find(|&device| known(device).next().is_none()) {
            Some(device) => Err(NetworkError::Device(device)),
            None => Ok(()),
        }
    }
}

/// Whether Linux has interfaces of this name (`dev_valid_name`), other than the loopback device.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
        && !matches!(name, "." | ".." | "lo")
}

/// As ip-route(8) writes it.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.destination, self.prefix)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(device: u8, name: &str) -> Interface {
        Interface {
            device,
            name: name.into(),
            mac: [2, 0, 0, 0, 0, device],
            mtu: 1500,
            up: true,
            addresses: Vec::new(),
        }
    }

    fn network(interfaces: Vec<Interface>) -> Network {
        Network { interfaces, ..Network::default() }
    }

    fn neighbour(device: u8) -> Neighbour {
        Neighbour { device, ip: [10, 0, 0, 1].into(), mac: [2; 6] }
    }

    #[test]
    fn names_and_cards_are_there_once() {
        assert_eq!(Network::default().check(), Ok(()));
        let good = network(vec![interface(1, "eth0"), interface(0, "a.b-c@d")]);
        assert_eq!(good.check(), Ok(()));
        for bad in ["", "lo", ".", "a/b", "a b", "%d", "sixteen-bytes-xx", "é"] {
            let error = network(vec![interface(0, bad)]).check();
            assert_eq!(error, Err(NetworkError::Name(bad.into())));
        }
        let twice = network(vec![interface(0, "a"), interface(1, "a")]).check();
        assert_eq!(twice, Err(NetworkError::Name("a".into())));
        let twice = network(vec![interface(0, "a"), interface(0, "b")]).check();
        assert_eq!(twice, Err(NetworkError::Device(0)));
        assert_eq!(network(vec![interface(8, "a")]).check(), Err(NetworkError::Device(8)));
    }

    #[test]
    fn what_names_a_card_names_one_that_is_there() {
        let good = Network { neighbours: vec![neighbour(0)], ..network(vec![interface(0, "a")]) };
        assert_eq!(good.check(), Ok(()));
        let bad = Network { neighbours: vec![neighbour(1)], ..good };
        assert_eq!(bad.check(), Err(NetworkError::Device(1)));
    }

    #[test]
    fn counts_are_bounded() {
        let many = Network {
            neighbours: vec![neighbour(0); MAX_NEIGHBOURS + 1],
            ..network(vec![interface(0, "a")])
        };
        let error = many.check().unwrap_err().to_string();
        assert_eq!(error, "1025 permanent neighbours; a microVM takes 1024");
    }

    #[test]
    fn what_is_absent_is_not_sent() {
        let text = serde_json::to_string(&network(vec![interface(0, "eth0")])).unwrap();
        assert!(!text.contains("routes") && !text.contains("addresses"), "{text}");
        let back: Network = serde_json::from_str(&text).unwrap();
        assert_eq!(back.interfaces, [interface(0, "eth0")]);
        assert!(serde_json::from_str::<Network>(r#"{"interfaces":[],"rules":[]}"#).is_err());
    }
}
