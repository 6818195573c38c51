//! One entry of a layer as the images and tests write it: what a tar member can say, nothing less.

/// A member of a layer.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path as it goes into the tar, bytes and all; a test may put anything here.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds of the epoch and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes by full name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What a member is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A file and its bytes.
    File(Vec<u8>),
    /// A file of this size that is zero but for the pieces (offset, bytes), written as GNU tar's sparse member (type `S`).
    Sparse {
        /// The file's size in bytes.
        size: u64,
        /// What is not a hole, in order; each piece but the last a multiple of 512 bytes.
        pieces: Vec<(u64, Vec<u8>)>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A hard link to an earlier member.
    HardLink(Vec<u8>),
    /// A FIFO.
    Fifo,
    /// A character device: major, minor.
    Character(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
}

/// The modification time of members that say nothing else: 2026-01-01 00:00 UTC.
pub const DEFAULT_MTIME: i64 = 1_767_225_600;

impl Entry {
    fn new(path: &str, kind: Kind, mode: u32) -> Self {
        let path = path.as_bytes().to_vec();
        Self { path, kind, mode, uid: 0, gid: 0, mtime: (DEFAULT_MTIME, 0), xattrs: Vec::new() }
    }

    /// A file, mode 0644.
    #[must_use]
    pub fn file(path: &str, data: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Kind::File(data.into()), 0o644)
    }

    /// A sparse file, mode 0644.
    #[must_use]
    pub fn sparse(path: &str, size: u64, pieces: Vec<(u64, Vec<u8>)>) -> Self {
        Self::new(path, Kind::Sparse { size, pieces }, 0o644)
    }

    /// A directory, mode 0755.
    #[must_use]
    pub fn directory(path: &str) -> Self {
        Self::new(path, Kind::Directory, 0o755)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(path: &str, target: &str) -> Self {
        Self::new(path, Kind::Symlink(target.as_bytes().to_vec()), 0o777)
    }

    /// A hard link to `target`.
    #[must_use]
    pub fn hard_link(path: &str, target: &str) -> Self {
        Self::new(path, Kind::HardLink(target.as_bytes().to_vec()), 0o644)
    }

    /// A FIFO, mode 0644.
    #[must_use]
    pub fn fifo(path: &str) -> Self {
        Self::new(path, Kind::Fifo, 0o644)
    }

    /// A character device, mode 0644.
    #[must_use]
    pub fn character(path: &str, major: u32, minor: u32) -> Self {
        Self::new(path, Kind::Character(major, minor), 0o644)
    }

    /// A block device, mode 0644.
    #[must_use]
    pub fn block(path: &str, major: u32, minor: u32) -> Self {
        Self::new(path, Kind::Block(major, minor), 0o644)
    }

    /// Takes away `name` of the layers below, in its directory (OCI image-spec, layer, whiteouts).
    #[must_use]
    pub fn whiteout(directory: &str, name: &str) -> Self {
        Self::file(&format!("{directory}/.wh.{name}"), "")
    }

    /// Takes away everything that the layers below have in this directory (OCI image-spec, layer, opaque whiteout).
    #[must_use]
    pub fn opaque(directory: &str) -> Self {
        Self::file(&format!("{directory}/.wh..wh..opq"), "")
    }

    /// With this path, byte for byte.
    #[must_use]
    pub fn raw_path(mut self, path: &[u8]) -> Self {
        self.path = path.to_vec();
        self
    }

    /// With these permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// With this owner and group.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Modified then.
    #[must_use]
    pub fn mtime(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.mtime = (seconds, nanoseconds);
        self
    }

    /// With one more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}
