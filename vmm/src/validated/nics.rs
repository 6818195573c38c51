//! What a network card's address, MTU and tap may be.

use std::collections::HashSet;

use crate::api::{Mac, Nic};

/// The most network cards of a machine.
const MAX_NICS: usize = 8;
/// An interface's name without its zero (`IFNAMSIZ`, netdevice(7)).
const MAX_NAME: usize = 15;

/// Why a network card is refused.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// Too many.
    #[error("{0} \"nics\"; a machine has at most {MAX_NICS}")]
    TooMany(usize),
    /// The address.
    #[error(
        "the nic \"mac\" {0} is a group's or no address; one interface's has an even first byte and is not zero"
    )]
    Mac(Mac),
    /// Two cards of one address.
    #[error("two nics have the \"mac\" {0}")]
    SameMac(Mac),
    /// The MTU.
    #[error("nic {mac}: the \"mtu\" is {mtu}; it is {min} to 65535 bytes", min = Nic::MIN_MTU)]
    Mtu {
        /// The card.
        mac: Mac,
        /// The MTU.
        mtu: u16,
    },
    /// The interface's name.
    #[error(
        "nic {mac}: the \"tap\" {tap:?} is not an interface's name of 1 to {MAX_NAME} bytes without \"/\", \":\", \"%\" and spaces"
    )]
    Tap {
        /// The card.
        mac: Mac,
        /// The name.
        tap: String,
    },
    /// Two cards at one interface.
    #[error("two nics have the \"tap\" {0:?}; each needs one of its own")]
    SameTap(String),
}

/// Checks what can be checked without looking at the host's interfaces.
pub(super) fn check(nics: &[Nic]) -> Result<(), NicError> {
    if nics.len() > MAX_NICS {
        return Err(NicError::TooMany(nics.len()));
    }
    let (mut macs, mut taps) = (HashSet::new(), HashSet::new());
    for Nic { mac, mtu, tap } in nics {
        if !mac.is_unicast() {
            return Err(NicError::Mac(*mac));
        }
        if !macs.insert(mac) {
            return Err(NicError::SameMac(*mac));
        }
        if *mtu < Nic::MIN_MTU {
            return Err(NicError::Mtu { mac: *mac, mtu: *mtu });
        }
        if let Some(tap) = tap {
            if !is_name(tap) {
                return Err(NicError::Tap { mac: *mac, tap: tap.clone() });
            }
            if !taps.insert(tap) {
                return Err(NicError::SameTap(tap.clone()));
            }
        }
    }
    Ok(())
}

/// Whether Linux has interfaces of this name (`dev_valid_name`). A "%" would ask it to choose one.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
        && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(last: u8, mtu: u16, tap: Option<&str>) -> Nic {
        Nic { mac: Mac([2, 0, 0, 0, 0, last]), mtu, tap: tap.map(str::to_owned) }
    }

    fn refused(nics: &[Nic]) -> String {
        check(nics).unwrap_err().to_string()
    }

    #[test]
    fn what_a_card_may_be() {
        let many: Vec<_> = (1..=9).map(|last| nic(last, 1500, None)).collect();
        check(&many[..8]).unwrap();
        assert!(refused(&many).contains("9 \"nics\""));
        check(&[nic(1, 68, Some("bh0")), nic(2, 65535, Some("123456789012345"))]).unwrap();
        assert!(refused(&[nic(1, 67, None)]).contains("68 to 65535"));
        assert!(refused(&[nic(1, 1500, None), nic(1, 1500, None)]).contains("two nics"));
        let group = Nic { mac: Mac([1, 0, 0, 0, 0, 1]), ..nic(1, 1500, None) };
        assert!(refused(&[group]).contains("01:00:00:00:00:01"));
        for name in ["", "1234567890123456", "a/b", "a b", "tap%d", "a:1", "..", "a\0"] {
            assert!(refused(&[nic(1, 1500, Some(name))]).contains("\"tap\""), "{name:?}");
        }
        let twice = [nic(1, 1500, Some("tap0")), nic(2, 1500, Some("tap0"))];
        assert!(refused(&twice).contains("of its own"));
    }
}
