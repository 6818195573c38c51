//! What is saved of a network card: what its driver has read of it. Frames that are under way are lost, as networks may.

use serde::{Deserialize, Serialize};

use crate::{
    api::{Mac, Nic},
    devices::virtio::{RestoreError, Version},
};

/// A network card as its driver knows it. Another may have another address, MTU and link: the machine's owner tells the guest of those that its
/// driver does not look at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// Of this type.
    pub version: Version<1>,
    /// Its address.
    pub mac: Mac,
    /// The largest packet.
    pub mtu: u16,
    /// Whether its link is up; not that of a slot.
    pub link: bool,
}

impl NetState {
    /// Whether this card can take the place of `saved`. True: its configuration space is another one.
    pub(super) fn check(&self, saved: &Self) -> Result<bool, RestoreError> {
        let impossible =
            |what, value| Err(RestoreError::Impossible { device: "network", what, value });
        if !saved.mac.is_unicast() {
            let [a, b, c, d, e, f] = saved.mac.0;
            return impossible("address", u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
        }
        if saved.mtu < Nic::MIN_MTU {
            return impossible("MTU", saved.mtu.into());
        }
        Ok(saved != self)
    }
}
