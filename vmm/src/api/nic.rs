//! A network card, as its owner says it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A virtio network device (virtio 1.3, 5.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The hardware address that the guest's driver begins with, one of a single interface. A clone may say another one than its template: its guest reads
    /// it no more, and sets it itself.
    pub mac: Mac,
    /// The largest packet without its Ethernet header that the guest may send, in bytes: 68, which is IPv4's least (RFC 791), to 65535. Linux begins with it and takes
    /// it for the most that can ever be set; a slot therefore says 65535. In a clone it may be another one than in the template.
    pub mtu: u16,
    /// The name of a persistent tap interface in the network namespace in which the VMM starts. It must not be a multi-queue one, and
    /// nothing else may hold it. None: a slot, whose link is down.
    #[serde(default)]
    pub tap: Option<String>,
}

impl Nic {
    /// The least MTU: that of IPv4 (RFC 791), and of an Ethernet device in Linux. IPv6 needs 1280, which is the guest's to see to.
    pub const MIN_MTU: u16 = 68;
}

/// An Ethernet address: `02:00:00:00:00:01` in text and JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it can be that of one interface: neither a group's nor all zeros.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is no Ethernet address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an Ethernet address such as \"02:00:00:00:00:01\"")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_pairs_of_digits() {
        let mac: Mac = serde_json::from_str(r#""0A:00:de:ad:BE:ef""#).unwrap();
        assert_eq!(mac, Mac([0x0a, 0, 0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(serde_json::to_string(&mac).unwrap(), r#""0a:00:de:ad:be:ef""#);
        for bad in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "02-00-00-00-00-01",
        ] {
            let error = bad.parse::<Mac>().unwrap_err().to_string();
            assert!(error.contains("Ethernet"), "{error}");
        }
    }

    #[test]
    fn groups_and_zeros_are_no_interface() {
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac([3, 0, 0, 0, 0, 1]).is_unicast() && !Mac([0xff; 6]).is_unicast());
        assert!(!Mac([0; 6]).is_unicast());
    }
}
