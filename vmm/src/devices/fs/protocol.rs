//! The bytes of FUSE requests and answers (Linux include/uapi/linux/fuse.h, interface 7.37), little-endian as the guest is.

use std::ffi::CStr;

use rustix::io::Errno;

/// The interface's major version.
pub(super) const MAJOR: u32 = 7;
/// The minor version that this server speaks.
pub(super) const MINOR: u32 = 37;
/// The oldest minor version of a guest: before it, requests have other shapes.
pub(super) const OLDEST_MINOR: u32 = 31;
/// The root directory's node (`FUSE_ROOT_ID`).
pub(super) const ROOT: u64 = 1;
/// Bytes of `struct fuse_in_header`.
pub(super) const IN_HEADER: usize = 40;
/// Bytes of `struct fuse_out_header`.
pub(super) const OUT_HEADER: usize = 16;
/// Bytes of `struct fuse_write_in`, which the data follows.
pub(super) const WRITE_IN: usize = 40;
/// Bytes of `struct fuse_entry_out`.
pub(super) const ENTRY_OUT: usize = 128;

macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What is asked (`enum fuse_opcode`), as far as this server knows it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Opcode { $($name = $number,)* }

        impl Opcode {
            pub(super) fn of(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Opcode::$name),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    Lookup = 1, Forget = 2, GetAttr = 3, SetAttr = 4, ReadLink = 5, SymLink = 6, MkNod = 8, MkDir = 9, Unlink = 10,
    RmDir = 11, Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, StatFs = 17, Release = 18, Fsync = 20,
    SetXattr = 21, GetXattr = 22, ListXattr = 23, RemoveXattr = 24, Init = 26, OpenDir = 27, ReadDir = 28, ReleaseDir = 29,
    FsyncDir = 30, Create = 35, Interrupt = 36, Destroy = 38, BatchForget = 42, Fallocate = 43, ReadDirPlus = 44,
    Rename2 = 45, Lseek = 46, CopyFileRange = 47, SyncFs = 50, TmpFile = 51,
}

impl Opcode {
    /// Whether the host may take long by the request's nature, so that others should not queue behind it.
    pub(super) fn may_wait(self) -> bool {
        matches!(
            self,
            Opcode::Fsync
                | Opcode::FsyncDir
                | Opcode::SyncFs
                | Opcode::Fallocate
                | Opcode::CopyFileRange
                | Opcode::Read
                | Opcode::Write
        )
    }

    /// Whether the driver waits for no answer.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt)
    }
}

/// `FUSE_INIT` flags.
pub(super) mod init {
    pub(in super::super) const ASYNC_READ: u32 = 1;
    pub(in super::super) const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub(in super::super) const BIG_WRITES: u32 = 1 << 5;
    /// The umask comes with each request, so that a default ACL can replace it.
    pub(in super::super) const DONT_MASK: u32 = 1 << 6;
    pub(in super::super) const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub(in super::super) const DO_READDIRPLUS: u32 = 1 << 13;
    pub(in super::super) const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub(in super::super) const ASYNC_DIO: u32 = 1 << 15;
    pub(in super::super) const PARALLEL_DIROPS: u32 = 1 << 18;
    pub(in super::super) const POSIX_ACL: u32 = 1 << 20;
    pub(in super::super) const MAX_PAGES: u32 = 1 << 22;
    pub(in super::super) const CACHE_SYMLINKS: u32 = 1 << 23;
    pub(in super::super) const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
    pub(in super::super) const SETXATTR_EXT: u32 = 1 << 29;
}

/// `struct fuse_setattr_in`'s `valid`.
pub(super) mod set {
    pub(in super::super) const MODE: u32 = 1;
    pub(in super::super) const UID: u32 = 1 << 1;
    pub(in super::super) const GID: u32 = 1 << 2;
    pub(in super::super) const SIZE: u32 = 1 << 3;
    pub(in super::super) const ATIME: u32 = 1 << 4;
    pub(in super::super) const MTIME: u32 = 1 << 5;
    pub(in super::super) const FH: u32 = 1 << 6;
    pub(in super::super) const ATIME_NOW: u32 = 1 << 7;
    pub(in super::super) const MTIME_NOW: u32 = 1 << 8;
    pub(in super::super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FUSE_GETATTR_FH`: the handle says which file.
pub(super) const GETATTR_FH: u32 = 1;
/// `FUSE_OPEN_KILL_SUIDGID`: truncation takes set-uid and set-gid away.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1;
/// `FOPEN_KEEP_CACHE`: what the guest has of the file's contents stays.
pub(super) const OPEN_KEEP_CACHE: u32 = 1 << 1;
/// `FUSE_WRITE_CACHE`: pages of the guest's cache, written back at their places.
pub(super) const WRITE_CACHE: u32 = 1;
/// `FUSE_WRITE_KILL_SUIDGID`: the write takes set-uid and set-gid away.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_FSYNC_FDATASYNC`.
pub(super) const FSYNC_DATA: u32 = 1;
/// `FUSE_SETXATTR_ACL_KILL_SGID`.
pub(super) const SETXATTR_KILL_SGID: u32 = 1;

/// `struct fuse_in_header`, as far as it is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// Bytes of the request with this header.
    pub(super) length: usize,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; IN_HEADER]) -> Self {
        let mut fields = Body(bytes);
        // There are as many bytes as the structure has.
        let mut word = || fields.u32().unwrap_or(0);
        let (length, opcode) = (word() as usize, word());
        let mut quad = || u64::from(word()) | u64::from(word()) << 32;
        let (unique, node) = (quad(), quad());
        Self { length, opcode, unique, node, uid: word(), gid: word() }
    }
}

/// The rest of a request, taken from its front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body<'a>(pub(super) &'a [u8]);

impl<'a> Body<'a> {
    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*head))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*head))
    }

    /// A zero-terminated string.
    pub(super) fn string(&mut self) -> Result<&'a CStr, Errno> {
        let string = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[string.count_bytes() + 1..];
        Ok(string)
    }

    /// The name of a directory's entry: one component, neither `.` nor `..`.
    pub(super) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.string()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            _ => Ok(name),
        }
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(head)
    }
}

/// An answer that grows; without its header.
pub(super) trait Answer {
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    fn zeros(&mut self, count: usize);
}

impl Answer for Vec<u8> {
    fn u16(&mut self, value: u16) {
        self.extend(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.extend(value.to_le_bytes());
    }

    fn zeros(&mut self, count: usize) {
        self.resize(self.len() + count, 0);
    }
}

/// `struct fuse_out_header`.
pub(super) fn out_header(
    length: usize,
    error: Option<Errno>,
    unique: u64,
) -> Option<[u8; OUT_HEADER]> {
    let mut bytes = [0; OUT_HEADER];
    bytes[..4].copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    bytes[4..8].copy_from_slice(&error.map_or(0, |error| -error.raw_os_error()).to_le_bytes());
    bytes[8..].copy_from_slice(&unique.to_le_bytes());
    Some(bytes)
}
