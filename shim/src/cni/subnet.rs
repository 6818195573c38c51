//! The default network's addresses: those that its bridge has, else ones that this host does not use.

use std::net::Ipv4Addr;

use super::CniError;
use crate::network::{Known, known};

/// The default network's bridge.
pub(super) const BRIDGE: &str = "bulkhead0";
/// The first third byte that is tried: other engines begin at 0.
const FIRST: u8 = 100;
/// Routes to networks that are larger than this keep to what is not more special than them.
const LARGE: u8 = 15;

/// A subnet `10.89.x.0/24`.
pub(super) fn choose() -> Result<String, CniError> {
    let (known, bridge) = known(BRIDGE).map_err(|error| CniError::System {
        what: "look for free addresses".into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    let third = of(&known, bridge).ok_or(CniError::NoSubnet)?;
    Ok(format!("10.89.{third}.0/24"))
}

fn of(known: &[Known], bridge: Option<u32>) -> Option<u8> {
    let own = known.iter().filter(|one| bridge.is_some() && one.interface == bridge);
    let third = |one: &Known| match one.ip.octets() {
        [10, 89, third, _] => Some(third),
        _ => None,
    };
    if let Some(third) = own.filter(|one| one.prefix == 24).find_map(third) {
        return Some(third);
    }
    (0..=u8::MAX).map(|step| FIRST.wrapping_add(step)).find(|&third| {
        let first = Ipv4Addr::new(10, 89, third, 0);
        !known.iter().any(|one| one.prefix > LARGE && overlap(first, one))
    })
}

/// Whether this network of 24 bits and another have an address in common.
fn overlap(first: Ipv4Addr, other: &Known) -> bool {
    let hosts = 32_u32.saturating_sub(u32::from(other.prefix.min(24)));
    let network = |ip: Ipv4Addr| ip.to_bits().checked_shr(hosts).unwrap_or(0);
    network(first) == network(other.ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str, interface: Option<u32>) -> Known {
        let (ip, prefix) = text.split_once('/').unwrap();
        Known { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap(), interface }
    }

    #[test]
    fn a_free_subnet_is_chosen_and_then_stays() {
        let vpn = known("10.0.0.0/8", None);
        let address = known("10.89.100.7/24", Some(2));
        let route = known("10.89.101.128/25", None);
        let wide = known("10.89.102.0/23", None);
        assert_eq!(of(&[], None), Some(100));
        assert_eq!(of(&[vpn], None), Some(100));
        assert_eq!(of(&[vpn, address, route, wide], None), Some(104));
        let bridge = known("10.89.7.1/24", Some(9));
        assert_eq!(of(&[address, bridge], Some(9)), Some(7));
        assert_eq!(of(&[known("192.0.2.1/24", Some(9))], Some(9)), Some(100));
        assert_eq!(of(&[known("10.89.0.0/16", None)], None), None);
        let upper = known("10.89.128.0/17", None);
        let lower: Vec<Known> =
            (100..128).map(|n| known(&format!("10.89.{n}.1/24"), None)).collect();
        assert_eq!(of(&[lower, vec![upper]].concat(), None), Some(0));
    }
}
