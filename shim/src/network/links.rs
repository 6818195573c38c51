//! The interfaces of a network namespace.

use bulkhead_netlink::{self as netlink, Parsed, Socket, attributes};
use bulkhead_protocol::network::{MAX_INTERFACES, NetworkError as Unfit};
use bulkhead_vmm::api::Mac;

use super::error::NetworkError;

/// What the alias of a tap of ours begins with: `bulkhead INTERFACE CONTAINER` (ip-link(8)).
const ALIAS: &str = "bulkhead";
/// The most left-overs that are looked at.
const MOST_TAPS: usize = 256;
/// Bytes of `struct ifinfomsg`.
const FIXED: usize = 16;

/// An interface that a guest can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) up: bool,
}

/// A tap that a microVM has, or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) index: u32,
    pub(super) name: String,
    /// The interface that it is beside.
    pub(super) of: String,
    pub(super) container: String,
    /// A VMM holds it.
    pub(super) held: bool,
}

/// The interfaces of a namespace.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// In the order of the guest's devices.
    pub(super) links: Vec<Link>,
    pub(super) taps: Vec<Tap>,
    /// What a guest cannot have, a line each.
    pub(super) notes: Vec<String>,
}

/// The alias of a tap beside this interface.
pub(super) fn alias(of: &str, container: &str) -> String {
    format!("{ALIAS} {of} {container}")
}

pub(super) fn read(socket: &Socket) -> Result<Links, NetworkError> {
    let fixed = netlink::link(0, 0, 0);
    let mut all = socket.dump(libc::RTM_GETLINK, &fixed, Links::default, |all, message| {
        all.add(&message)?;
        Ok::<(), NetworkError>(())
    })?;
    order(&mut all.links);
    Ok(all)
}

/// The interfaces of which these messages tell.
pub(super) fn of(said: &[u8]) -> Result<Links, NetworkError> {
    let mut all = Links::default();
    netlink::messages(said).try_for_each(|message| all.add(&message))?;
    order(&mut all.links);
    Ok(all)
}

impl Links {
    /// Takes a message of a dump.
    fn add(&mut self, message: &Parsed<'_>) -> Result<(), NetworkError> {
        /// `ARPHRD_ETHER`.
        const ETHERNET: u16 = 1;
        let Some(seen) = Seen::of(message) else { return Ok(()) };
        let up = seen.flags & libc::IFF_UP.unsigned_abs() != 0;
        if let Some(tap) = seen.tap() {
            if self.taps.len() < MOST_TAPS {
                self.taps.push(tap);
            }
            return Ok(());
        }
        let mac = seen.mac.filter(|&mac| Mac(mac).is_unicast());
        match mac {
            // One of a bridge's or a bond's is not there to be used itself.
            _ if seen.loopback() || seen.has_master => {}
            Some(mac) if seen.kind == ETHERNET => {
                if self.links.len() >= MAX_INTERFACES {
                    let (count, most) = (self.links.len() + 1, MAX_INTERFACES);
                    return Err(Unfit::TooMany { what: "interfaces", count, most }.into());
                }
                let Seen { index, name, mtu, .. } = seen;
                self.links.push(Link { index, name: name.into(), mac, mtu, up });
            }
            // The kernel puts some into each namespace, unused.
            _ if !up => {}
            _ if self.notes.len() < MAX_INTERFACES => {
                let name = seen.name;
                self.notes.push(format!(
                    "the interface {name} is no Ethernet interface, and the microVM does not get it"
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

/// An interface that is named like the guest's kernel names a network card is that card; the others take those that are left. So no name is
/// taken when a card gets its own.
fn order(links: &mut Vec<Link>) {
    let count = links.len();
    let card = |link: &Link| {
        let number = link.name.strip_prefix("eth")?.parse::<usize>().ok()?;
        (number < count && link.name == format!("eth{number}")).then_some(number)
    };
    let (named, others): (Vec<Link>, Vec<Link>) =
        links.drain(..).partition(|link| card(link).is_some());
    let mut others = others.into_iter();
    for number in 0..count {
        let own = named.iter().find(|link| card(link) == Some(number)).cloned();
        links.extend(own.or_else(|| others.next()));
    }
}

/// A message of type `RTM_NEWLINK`.
struct Seen<'a> {
    kind: u16,
    index: u32,
    flags: u32,
    name: &'a str,
    mac: Option<[u8; 6]>,
    mtu: u32,
    alias: Option<&'a str>,
    carrier: bool,
    has_master: bool,
}

impl<'a> Seen<'a> {
    fn of(message: &Parsed<'a>) -> Option<Self> {
        /// linux/if_link.h.
        const CARRIER: u16 = 33;
        let head: &[u8; FIXED] = message.body.first_chunk()?;
        let number = |at: usize| Some(u32::from_ne_bytes(*head.get(at..)?.first_chunk()?));
        let mut seen = Self {
            kind: u16::from_ne_bytes([head[2], head[3]]),
            index: number(4)?,
            flags: number(8)?,
            name: "",
            mac: None,
            mtu: 0,
            alias: None,
            carrier: false,
            has_master: false,
        };
        for attribute in attributes(message.body, FIXED) {
            match attribute.kind {
                libc::IFLA_IFNAME => seen.name = attribute.text()?,
                libc::IFLA_ADDRESS => seen.mac = attribute.mac(),
                libc::IFLA_MTU => seen.mtu = attribute.number()?,
                libc::IFLA_IFALIAS => seen.alias = attribute.text(),
                libc::IFLA_MASTER => seen.has_master = true,
                CARRIER => seen.carrier = attribute.value.first() == Some(&1),
                _ => {}
            }
        }
        (message.kind == libc::RTM_NEWLINK && !seen.name.is_empty()).then_some(seen)
    }

    fn loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK.unsigned_abs() != 0
    }

    fn tap(&self) -> Option<Tap> {
        let mut words = self.alias?.splitn(3, ' ');
        let (mark, of, container) = (words.next()?, words.next()?, words.next()?);
        (mark == ALIAS).then(|| Tap {
            index: self.index,
            name: self.name.into(),
            of: of.into(),
            container: container.into(),
            held: self.carrier,
        })
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_netlink::{Batch, link};

    use super::*;

    fn named(names: &[&str]) -> Vec<String> {
        let link = |(index, name): (u32, &&str)| Link {
            index,
            name: (*name).into(),
            mac: [2; 6],
            mtu: 1500,
            up: true,
        };
        let mut links: Vec<Link> = (2..).zip(names).map(link).collect();
        order(&mut links);
        links.into_iter().map(|link| link.name).collect()
    }

    #[test]
    fn a_name_of_a_card_is_that_cards() {
        assert_eq!(named(&["eth0"]), ["eth0"]);
        assert_eq!(named(&["net1", "eth1", "eth0"]), ["eth0", "eth1", "net1"]);
        assert_eq!(named(&["net1", "eth1"]), ["net1", "eth1"]);
        assert_eq!(named(&["eth7", "eth00"]), ["eth7", "eth00"]);
        assert_eq!(named(&[]), [""; 0]);
    }

    /// A message as the kernel sends it.
    fn message(index: u32, kind: u16, flags: u32, name: &str, mac: &[u8], alias: &str) -> Vec<u8> {
        let mut fixed = link(index, flags, 0);
        fixed[2..4].copy_from_slice(&kind.to_ne_bytes());
        let mut batch = Batch::default();
        let mut message = batch.message(libc::RTM_NEWLINK, 0, &fixed);
        message.text(libc::IFLA_IFNAME, name).attribute(libc::IFLA_ADDRESS, mac);
        message.number(libc::IFLA_MTU, 1500).text(libc::IFLA_IFALIAS, alias);
        batch.bytes().to_vec()
    }

    fn all(list: &[Vec<u8>]) -> Result<Links, NetworkError> {
        of(&list.concat())
    }

    #[test]
    fn only_ethernet_interfaces_are_taken() {
        const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
        let found = all(&[
            message(1, 772, 9, "lo", &[0; 6], ""),
            message(2, 1, 1, "eth0", &MAC, ""),
            message(3, 1, 0, "gretap0", &[0; 6], ""),
            message(4, 768, 0, "tunl0", &[0; 4], ""),
            message(5, 65534, 1, "tun0", &[], ""),
            message(6, 1, 1, "bh00-0", &MAC, "bulkhead eth0 a container"),
        ])
        .unwrap();
        let names: Vec<_> = found.links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["eth0"]);
        assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
        assert!(found.notes[0].contains("tun0"));
        let tap = &found.taps[0];
        assert_eq!((tap.of.as_str(), tap.container.as_str()), ("eth0", "a container"));
    }

    #[test]
    fn interfaces_are_bounded() {
        let many: Vec<_> = (0..9)
            .map(|n| message(n + 2, 1, 1, &format!("net{n}"), &[2, 0, 0, 0, 0, 1], ""))
            .collect();
        let error = all(&many).unwrap_err().to_string();
        assert!(error.contains("9 interfaces"), "{error}");
    }

    #[test]
    fn what_is_cut_short_is_left_out() {
        let whole = message(2, 1, 1, "eth0", &[2, 0, 0, 0, 0, 1], "");
        for length in 0..whole.len() {
            assert!(all(&[whole[..length].to_vec()]).unwrap().links.is_empty());
        }
    }
}
