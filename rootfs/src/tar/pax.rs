//! Pax extended headers (POSIX.1-2017, pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files" for `GNU.sparse.*`;
//! star(5) for `SCHILY.xattr.*`). Values are bytes: an attribute's value may hold newlines and NULs.

use super::{error::TarError, header::Segment};
use crate::limits;

/// What a pax header says about the entry that follows it. None: the header's own field counts.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds and nanoseconds; the nanoseconds count forward also before 1970.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// `GNU.sparse.*`: formats 0.0 and 0.1 bring the map here, 1.0 at the start of the entry's data.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) map_in_data: bool,
    pub(super) map: Option<Vec<Segment>>,
    pub(super) size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pending_offset: Option<u64>,
}

impl Pax {
    /// Adds the records of one extended header; later records win over earlier ones.
    pub(super) fn read(&mut self, mut records: &[u8], offset: u64) -> Result<(), TarError> {
        let bad = || TarError::Pax(offset);
        while !records.is_empty() {
            let space = records.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length = records.get(..space).and_then(decimal).ok_or_else(bad)?;
            let length = usize::try_from(length).map_err(|_| bad())?;
            let (record, rest) = records.split_at_checked(length).ok_or_else(bad)?;
            let record =
                record.get(space + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            let (key, value) =
                (record.get(..equals).ok_or_else(bad)?, record.get(equals + 1..).ok_or_else(bad)?);
            self.record(key, value, offset)?;
            records = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8], offset: u64) -> Result<(), TarError> {
        let number = |field| decimal(value).ok_or(TarError::Number { field, offset });
        let sparse = TarError::Sparse(offset);
        match key {
            b"path" => self.path = non_empty(value),
            b"linkpath" => self.link = non_empty(value),
            b"size" => self.size = Some(number("pax size")?),
            b"uid" => self.uid = Some(number("pax uid")?),
            b"gid" => self.gid = Some(number("pax gid")?),
            b"mtime" => {
                self.mtime =
                    Some(time(value).ok_or(TarError::Number { field: "pax mtime", offset })?)
            }
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.name" => self.sparse.name = non_empty(value),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = Some(decimal(value).ok_or(sparse)?)
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = value
                    .split(|b| *b == b',')
                    .filter(|n| !n.is_empty())
                    .take(2 * limits::SPARSE_SEGMENTS + 1)
                    .map(decimal)
                    .collect();
                self.sparse.map = Some(numbers.and_then(|n| segments(&n)).ok_or(sparse)?);
            }
            b"GNU.sparse.numblocks" => self.sparse.map = Some(Vec::new()),
            b"GNU.sparse.offset" => {
                self.sparse.pending_offset = Some(decimal(value).ok_or(sparse)?)
            }
            b"GNU.sparse.numbytes" => {
                let (Some(at), Some(length)) = (self.sparse.pending_offset.take(), decimal(value))
                else {
                    return Err(sparse);
                };
                let map = self.sparse.map.get_or_insert_default();
                if map.len() >= limits::SPARSE_SEGMENTS {
                    return Err(sparse);
                }
                map.push(Segment { offset: at, length });
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Pairs of offset and length; None for an odd count or too many.
pub(super) fn segments(numbers: &[u64]) -> Option<Vec<Segment>> {
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > limits::SPARSE_SEGMENTS {
        return None;
    }
    Some(
        numbers
            .as_chunks()
            .0
            .iter()
            .map(|[offset, length]| Segment { offset: *offset, length: *length })
            .collect(),
    )
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn non_empty(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

/// `[-]seconds[.fraction]`, the fraction cut (not rounded) to nanoseconds as Go's archive/tar does.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9)
        .fold(0_u32, |n, i| n * 10 + fraction.get(i).map_or(0, |digit| u32::from(digit - b'0')));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len();
        while length != body.len() + length.to_string().len() {
            length = body.len() + length.to_string().len();
        }
        [length.to_string().as_bytes(), &body].concat()
    }

    #[test]
    fn values_may_hold_any_byte() {
        let mut pax = Pax::default();
        let value = b"\x01\n\0 =x\n";
        pax.read(
            &[record("SCHILY.xattr.user.a", value), record("path", "ü".as_bytes())].concat(),
            0,
        )
        .unwrap();
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), value.to_vec())]);
        assert_eq!(pax.path.as_deref(), Some("ü".as_bytes()));
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"x"), None);
        assert_eq!(time(b""), None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"x a=b\n",
            b"99 a=b\n",
            b"7 a=b\n",
            b"6 aab\n",
            b"18446744073709551616 a=b\n",
            b"0 ",
            b" a=b\n",
        ] {
            assert!(
                matches!(Pax::default().read(bad, 7), Err(TarError::Pax(7))),
                "{}",
                bad.escape_ascii()
            );
        }
        assert!(matches!(
            Pax::default().read(&record("uid", b"-1"), 0),
            Err(TarError::Number { .. })
        ));
    }

    #[test]
    fn both_pax_sparse_maps_are_read() {
        let expected = [Segment { offset: 0, length: 5 }, Segment { offset: 100, length: 1 }];
        let mut pax = Pax::default();
        pax.read(&record("GNU.sparse.map", b"0,5,100,1"), 0).unwrap();
        assert_eq!(pax.sparse.map.as_deref(), Some(&expected[..]));
        let mut pax = Pax::default();
        for (key, value) in [
            ("numblocks", "2"),
            ("offset", "0"),
            ("numbytes", "5"),
            ("offset", "100"),
            ("numbytes", "1"),
        ] {
            pax.read(&record(&format!("GNU.sparse.{key}"), value.as_bytes()), 0).unwrap();
        }
        assert_eq!(pax.sparse.map.as_deref(), Some(&expected[..]));
        assert!(matches!(
            Pax::default().read(&record("GNU.sparse.numbytes", b"5"), 3),
            Err(TarError::Sparse(3))
        ));
    }
}
