//! Tar layers built entry by entry.

use std::io::Write;

use tar::{Builder, EntryType, Header};

pub struct Archive {
    builder: Builder<Vec<u8>>,
}

/// An entry's header, ready to be changed.
pub fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(0);
    header
}

impl Archive {
    pub fn new() -> Self {
        Self { builder: Builder::new(Vec::new()) }
    }

    /// Pax records for the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.builder.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    /// An entry whose path is written as it is, `..` and all.
    pub fn raw(mut self, mut header: Header, path: &[u8], data: &[u8]) -> Self {
        if path.len() > 100 {
            let mut long = self::header(EntryType::GNULongName, 0);
            long.set_size(path.len() as u64 + 1);
            long.set_cksum();
            self.builder.append(&long, &[path, b"\0"].concat()[..]).unwrap();
        }
        let name = &mut header.as_old_mut().name;
        name.fill(0);
        let short = path.len().min(100);
        name[..short].copy_from_slice(&path[..short]);
        if matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous) {
            header.set_size(data.len() as u64);
        }
        header.set_cksum();
        self.builder.append(&header, data).unwrap();
        self
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.raw(header(EntryType::Directory, mode), path.as_bytes(), b"")
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.raw(header(EntryType::Regular, 0o644), path.as_bytes(), data)
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target)
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Link, path, target)
    }

    fn link(mut self, kind: EntryType, path: &str, target: &str) -> Self {
        let mut header = header(kind, 0o777);
        if target.len() > 100 {
            let mut long = self::header(EntryType::GNULongLink, 0);
            long.set_size(target.len() as u64 + 1);
            long.set_cksum();
            self.builder.append(&long, &[target.as_bytes(), b"\0"].concat()[..]).unwrap();
        } else {
            header.set_link_name_literal(target).unwrap();
        }
        self.raw(header, path.as_bytes(), b"")
    }

    pub fn device(self, path: &str, kind: EntryType, major: u32, minor: u32) -> Self {
        let mut header = header(kind, 0o600);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, path.as_bytes(), b"")
    }

    /// Bytes that are no entry made here.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.builder.get_mut().write_all(bytes).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
