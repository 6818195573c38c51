//! The 512-byte tar header: POSIX ustar, pre-POSIX and GNU (tar(5), "Numeric Extensions"; GNU tar manual, "Basic Tar Format").

use super::error::TarError;

/// Bytes of a tar record.
pub(super) const RECORD: usize = 512;

/// One header record, checksum verified.
pub(super) struct Header {
    bytes: [u8; RECORD],
    offset: u64,
}

/// A sparse segment: `length` bytes of data at `offset` of the file; the rest is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Header {
    /// Checks the header's checksum: the sum of all bytes, its own field counted as spaces, as unsigned bytes or, as some old
    /// writers do, as signed ones. None for a record of zeros, which ends an archive.
    pub(super) fn parse(bytes: [u8; RECORD], offset: u64) -> Result<Option<Self>, TarError> {
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Self { bytes, offset };
        let stored = header.number(148, 8, "checksum").map_err(|_| TarError::Checksum(offset))?;
        let counted = || {
            bytes.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b })
        };
        let unsigned: i64 = counted().map(i64::from).sum();
        let signed: i64 = counted().map(|b| i64::from(b.cast_signed())).sum();
        if stored != unsigned && stored != signed {
            return Err(TarError::Checksum(offset));
        }
        Ok(Some(header))
    }

    fn field(&self, at: usize, len: usize) -> &[u8] {
        self.bytes.get(at..at + len).unwrap_or_default()
    }

    /// A numeric field: octal text, or base-256 two's complement when the first bit is set. An empty field is 0.
    fn number(&self, at: usize, len: usize, field: &'static str) -> Result<i64, TarError> {
        number(self.field(at, len)).ok_or(TarError::Number { field, offset: self.offset })
    }

    fn unsigned(&self, at: usize, len: usize, field: &'static str) -> Result<u64, TarError> {
        u64::try_from(self.number(at, len, field)?)
            .map_err(|_| TarError::Number { field, offset: self.offset })
    }

    fn is_ustar(&self) -> bool {
        self.field(257, 6) == b"ustar\0"
    }

    fn is_gnu(&self) -> bool {
        self.field(257, 8) == b"ustar  \0"
    }

    pub(super) fn kind(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or_default()
    }

    /// The path, with ustar's prefix joined on.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = text(self.field(345, 155));
        if self.is_ustar() && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(self.field(157, 100)).to_vec()
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        self.unsigned(124, 12, "size")
    }

    pub(super) fn mode(&self) -> Result<u64, TarError> {
        self.unsigned(100, 8, "mode")
    }

    pub(super) fn uid(&self) -> Result<u64, TarError> {
        self.unsigned(108, 8, "uid")
    }

    pub(super) fn gid(&self) -> Result<u64, TarError> {
        self.unsigned(116, 8, "gid")
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        self.number(136, 12, "mtime")
    }

    /// Major and minor numbers; zero where the header's format has none.
    pub(super) fn device(&self) -> Result<(u64, u64), TarError> {
        if self.is_ustar() || self.is_gnu() {
            Ok((self.unsigned(329, 8, "device major")?, self.unsigned(337, 8, "device minor")?))
        } else {
            Ok((0, 0))
        }
    }

    /// The real size of an old GNU sparse file.
    pub(super) fn sparse_size(&self) -> Result<u64, TarError> {
        self.unsigned(483, 12, "real size")
    }

    /// The segments in the header of an old GNU sparse file, and whether extension records follow.
    pub(super) fn sparse_segments(&self, segments: &mut Vec<Segment>) -> Result<bool, TarError> {
        read_segments(self.field(386, 4 * 24), segments).ok_or(TarError::Sparse(self.offset))?;
        Ok(self.field(482, 1) != [0])
    }
}

/// The segments of an extension record of an old GNU sparse file, and whether another one follows.
pub(super) fn extension_segments(
    record: &[u8; RECORD],
    segments: &mut Vec<Segment>,
) -> Option<bool> {
    read_segments(record.get(..21 * 24)?, segments)?;
    Some(record.get(504).is_some_and(|more| *more != 0))
}

fn read_segments(table: &[u8], segments: &mut Vec<Segment>) -> Option<()> {
    for slot in table.chunks_exact(24) {
        let (offset, length) = slot.split_at_checked(12)?;
        if length.first() == Some(&0) || offset.first() == Some(&0) {
            break;
        }
        let (offset, length) =
            (u64::try_from(number(offset)?).ok()?, u64::try_from(number(length)?).ok()?);
        segments.push(Segment { offset, length });
    }
    Some(())
}

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Base 256: two's complement, without the top bit, which only marks the form.
        let negative = first & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = match (i, negative) {
                (0, false) => byte & 0x7f,
                _ => *byte,
            };
            value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
        }
        return Some(value);
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Some(0);
    }
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b" 755 \0\0\0"), Some(0o755));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]), Some(4_294_967_294));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!(
            number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            None
        );
    }

    #[test]
    fn a_damaged_header_is_refused() {
        let mut header = tar::Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_size(3);
        header.set_cksum();
        let mut bytes = *header.as_bytes();
        let parsed = Header::parse(bytes, 0).unwrap().unwrap();
        assert_eq!((parsed.path(), parsed.size().unwrap()), (b"a".to_vec(), 3));
        bytes[0] ^= 1;
        assert!(matches!(Header::parse(bytes, 512), Err(TarError::Checksum(512))));
    }
}
