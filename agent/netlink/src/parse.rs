//! Reads what the kernel says. Whatever is cut short or counts wrong ends the reading and is never read beyond.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::batch::HEADER;

/// A message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// Its type: `RTM_…`, `NLMSG_…`.
    pub kind: u16,
    /// `NLM_F_…`.
    pub flags: u16,
    /// That of the request.
    pub sequence: u32,
    /// What follows its header.
    pub body: &'a [u8],
}

/// An attribute of a message, or of another attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without the bits that say how it is encoded.
    pub kind: u16,
    /// What it holds.
    pub value: &'a [u8],
}

/// The messages in what was received.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Parsed<'_>> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<HEADER>()?;
        let length = usize::try_from(u32::from_ne_bytes([head[0], head[1], head[2], head[3]]));
        let length = length.ok()?;
        let body = bytes.get(HEADER..length)?;
        let parsed = Parsed {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            sequence: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
            body,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(parsed)
    })
}

/// The attributes in these bytes, behind a fixed part of so many.
#[must_use]
pub fn attributes(bytes: &[u8], fixed: usize) -> Attributes<'_> {
    Attributes { bytes: bytes.get(fixed.next_multiple_of(4)..).unwrap_or_default() }
}

/// Attributes, one after the other.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
        const ENCODING: u16 = 0xc000;
        let &[a, b, c, d] = self.bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = self.bytes.get(4..length)?;
        self.bytes = self.bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind: u16::from_ne_bytes([c, d]) & !ENCODING, value })
    }
}

impl<'a> Attribute<'a> {
    /// A number of 32 bits.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.value.first_chunk()?))
    }

    /// Text up to its zero byte.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        let end = self.value.iter().position(|&byte| byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(self.value.get(..end)?).ok()
    }

    /// An address of either family.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        if let Ok(bytes) = <[u8; 4]>::try_from(self.value) {
            return Some(Ipv4Addr::from(bytes).into());
        }
        let bytes = <[u8; 16]>::try_from(self.value).ok()?;
        Some(Ipv6Addr::from(bytes).into())
    }

    /// An Ethernet address.
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.value.try_into().ok()
    }

    /// The attributes in it.
    #[must_use]
    pub fn nested(&self) -> Attributes<'a> {
        attributes(self.value, 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Batch;

    fn sample() -> Batch {
        let mut batch = Batch::default();
        batch.message(16, 0, &[7; 5]).text(3, "eth0").number(4, 1500);
        batch.message(24, 0x100, &[]).nested(9, |inner| {
            inner.attribute(1, &[10, 0, 0, 1]).attribute(2, &[]);
        });
        batch
    }

    #[test]
    fn what_is_written_is_read() {
        let mut batch = sample();
        let bytes = batch.finish().to_vec();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (16, 1, 0));
        assert_eq!((read[1].kind, read[1].flags, read[1].sequence), (24, 0x105, 1));
        let nested = attributes(read[1].body, 0).next().unwrap();
        let inner: Vec<_> = nested.nested().collect();
        assert_eq!(inner[0].ip(), Some("10.0.0.1".parse().unwrap()));
        assert_eq!((inner[1].kind, inner[1].value.len()), (2, 0));
    }

    #[test]
    fn values_have_their_lengths() {
        let of = |value| Attribute { kind: 1, value };
        assert_eq!(of(b"eth0\0junk").text(), Some("eth0"));
        assert_eq!(of(b"eth0").text(), Some("eth0"));
        assert_eq!(of(&[0xff, 0]).text(), None);
        assert_eq!(of(&[1, 2, 3]).number(), None);
        assert_eq!(of(&[1; 5]).ip(), None);
        assert_eq!(of(&[0; 16]).ip(), Some("::".parse().unwrap()));
        assert_eq!(of(&[2; 6]).mac(), Some([2; 6]));
        assert_eq!(of(&[2; 8]).mac(), None);
    }

    proptest! {
        /// Any bytes: it ends, and nothing is read that is not there.
        #[test]
        fn junk_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..512), fixed in 0_usize..64) {
            let total: usize = messages(&bytes).map(|message| {
                let inner: usize = attributes(message.body, fixed)
                    .map(|one| one.value.len() + one.nested().map(|one| one.value.len()).sum::<usize>())
                    .sum();
                prop_assert!(inner <= 2 * message.body.len());
                Ok(message.body.len())
            }).sum::<Result<usize, TestCaseError>>()?;
            prop_assert!(total <= bytes.len());
        }

        /// A message that is cut anywhere gives those before it.
        #[test]
        fn truncation_is_survived(cut in 0_usize..200) {
            let mut batch = sample();
            let bytes = batch.finish();
            let whole: Vec<_> = messages(bytes).collect();
            let cut = &bytes[..cut.min(bytes.len())];
            let some: Vec<_> = messages(cut).collect();
            prop_assert!(some.len() <= whole.len());
            for (one, other) in some.iter().zip(&whole) {
                prop_assert_eq!(one, other);
            }
        }
    }
}
