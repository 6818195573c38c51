//! Writes layers: a small tar writer (ustar with PAX records and GNU's sparse members), and the compressions of the
//! image specification. It writes whatever it is told, so that tests can write what an importer must refuse.

use std::io::{self, Read, Write};

use super::entry::{Entry, Kind};

const BLOCK: usize = 512;

/// How a layer is stored (OCI image-spec, layer, media types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// The layer's media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// That of a media type.
    pub(super) fn of(media_type: &str) -> Self {
        match media_type.rsplit_once('+') {
            Some((_, "gzip")) => Compression::Gzip,
            Some((_, "zstd")) => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// The bytes, compressed.
    ///
    /// # Errors
    /// That of the compressor.
    pub fn compress(self, tar: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Compression::None => Ok(tar.to_vec()),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar)?;
                encoder.finish()
            }
            Compression::Zstd => zstd::encode_all(tar, 3),
        }
    }

    /// What [`Compression::compress`] was given.
    pub(super) fn decompress(self, blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut tar = Vec::new();
        match self {
            Compression::None => tar.extend_from_slice(blob),
            Compression::Gzip => {
                flate2::read::GzDecoder::new(blob).read_to_end(&mut tar)?;
            }
            Compression::Zstd => zstd::stream::copy_decode(blob, &mut tar)?,
        }
        Ok(tar)
    }
}

/// The tar archive of these entries.
#[must_use]
pub fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        append(&mut out, entry);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// Appends one member to an unfinished archive.
pub fn append(out: &mut Vec<u8>, entry: &Entry) {
    let (flag, link, body): (u8, &[u8], Vec<u8>) = match &entry.kind {
        Kind::File(data) => (b'0', b"", data.clone()),
        Kind::Sparse { pieces, .. } => {
            (b'S', b"", pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect())
        }
        Kind::Directory => (b'5', b"", Vec::new()),
        Kind::Symlink(target) => (b'2', target, Vec::new()),
        Kind::HardLink(target) => (b'1', target, Vec::new()),
        Kind::Fifo => (b'6', b"", Vec::new()),
        Kind::Character(..) => (b'3', b"", Vec::new()),
        Kind::Block(..) => (b'4', b"", Vec::new()),
    };
    let records = pax_records(entry, link);
    if !records.is_empty() {
        let mut header = Header::new(b"PaxHeader", b'x');
        header.number(124, 12, records.len() as u64);
        header.finish(out);
        pad(out, &records);
    }
    let mut header = Header::new(&entry.path, flag);
    header.number(100, 8, u64::from(entry.mode));
    header.number(108, 8, u64::from(entry.uid));
    header.number(116, 8, u64::from(entry.gid));
    header.number(124, 12, body.len() as u64);
    header.number(136, 12, u64::try_from(entry.mtime.0).unwrap_or(0));
    header.bytes(157, 100, link);
    if let Kind::Character(major, minor) | Kind::Block(major, minor) = entry.kind {
        header.number(329, 8, u64::from(major));
        header.number(337, 8, u64::from(minor));
    }
    if let Kind::Sparse { size, pieces } = &entry.kind {
        header.sparse(*size, pieces, out);
    } else {
        header.finish(out);
    }
    pad(out, &body);
}

fn pad(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// The PAX extended header records that a member needs (POSIX.1-2017, pax, "Extended Header"); empty when none.
fn pax_records(entry: &Entry, link: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &str, value: &[u8]| {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        records.extend_from_slice(format!("{length} {key}=").as_bytes());
        records.extend_from_slice(value);
        records.push(b'\n');
    };
    if entry.path.len() > 100 {
        add("path", &entry.path);
    }
    if link.len() > 100 {
        add("linkpath", link);
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if u64::from(id) >= 1 << 21 {
            add(key, id.to_string().as_bytes());
        }
    }
    let (seconds, nanoseconds) = entry.mtime;
    if nanoseconds != 0 {
        add("mtime", format!("{seconds}.{nanoseconds:09}").as_bytes());
    } else if !(0..1 << 33).contains(&seconds) {
        add("mtime", seconds.to_string().as_bytes());
    }
    for (name, value) in &entry.xattrs {
        add(&format!("SCHILY.xattr.{name}"), value);
    }
    records
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(path: &[u8], flag: u8) -> Self {
        let mut header = Header([0; BLOCK]);
        header.bytes(0, 100, path);
        header.0[156] = flag;
        header.bytes(257, 8, if flag == b'S' { b"ustar  \0" } else { b"ustar\x0000" });
        header
    }

    fn bytes(&mut self, at: usize, room: usize, value: &[u8]) {
        let length = value.len().min(room);
        self.0[at..at + length].copy_from_slice(&value[..length]);
    }

    /// Octal digits, or GNU's base-256 where they do not fit.
    fn number(&mut self, at: usize, room: usize, value: u64) {
        if value >> (3 * (room - 1)).min(63) == 0 {
            self.bytes(at, room, format!("{value:0width$o}", width = room - 1).as_bytes());
        } else {
            self.0[at..at + room].fill(0);
            self.0[at] = 0x80;
            let digits = value.to_be_bytes();
            let tail = &digits[8 - (room - 1).min(8)..];
            self.0[at + room - tail.len()..at + room].copy_from_slice(tail);
        }
    }

    /// Writes the header with GNU's sparse map: four pieces in the header, 21 in each block that follows it.
    fn sparse(mut self, size: u64, pieces: &[(u64, Vec<u8>)], out: &mut Vec<u8>) {
        let (first, rest) = pieces.split_at(pieces.len().min(4));
        for (n, (offset, bytes)) in first.iter().enumerate() {
            self.number(386 + 24 * n, 12, *offset);
            self.number(398 + 24 * n, 12, bytes.len() as u64);
        }
        self.0[482] = u8::from(!rest.is_empty());
        self.number(483, 12, size);
        self.finish(out);
        let mut blocks = rest.chunks(21).peekable();
        while let Some(chunk) = blocks.next() {
            let mut block = Header([0; BLOCK]);
            for (n, (offset, bytes)) in chunk.iter().enumerate() {
                block.number(24 * n, 12, *offset);
                block.number(24 * n + 12, 12, bytes.len() as u64);
            }
            block.0[504] = u8::from(blocks.peek().is_some());
            out.extend_from_slice(&block.0);
        }
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.bytes(148, 8, format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reader_understands_every_member() {
        let long = "d/".repeat(60) + "name";
        let archive = tar_of(&[
            Entry::file(&long, "text")
                .owner(3_000_000_000, 7)
                .mtime(5, 123)
                .xattr("user.a", b"\0b"),
            Entry::sparse("s", 1 << 33, vec![(512, vec![1; 512]), ((1 << 33) - 3, vec![2; 3])]),
            Entry::character("c", 1, 3),
        ]);
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut entries = archive.entries().unwrap();

        let mut file = entries.next().unwrap().unwrap();
        assert_eq!(&*file.path_bytes(), long.as_bytes());
        let records: Vec<_> = file.pax_extensions().unwrap().unwrap().map(Result::unwrap).collect();
        let record = |key: &str| {
            records.iter().find(|r| r.key_bytes() == key.as_bytes()).unwrap().value_bytes()
        };
        assert_eq!(record("uid"), b"3000000000");
        assert_eq!(record("mtime"), b"5.000000123");
        assert_eq!(record("SCHILY.xattr.user.a"), b"\0b");
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");

        let sparse = entries.next().unwrap().unwrap();
        assert_eq!(sparse.size(), 1 << 33);
        let mut start = vec![0; 2048];
        { sparse }.read_exact(&mut start).unwrap();
        assert_eq!((start[511], start[512], start[1023], start[1024]), (0, 1, 1, 0));

        let device = entries.next().unwrap().unwrap();
        assert_eq!(device.header().device_minor().unwrap(), Some(3));
    }

    #[test]
    fn each_compression_is_undone_by_its_reader() {
        let tar = tar_of(&[Entry::file("a", vec![7; 5000])]);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let blob = compression.compress(&tar).unwrap();
            assert_eq!(compression.decompress(&blob).unwrap(), tar);
            assert_eq!(Compression::of(compression.media_type()), compression);
        }
    }
}
