//! Opening what is in a directory, and never anything outside of it.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Statx, StatxFlags},
    io::Errno,
};

use crate::limits;

/// No symbolic link is followed, no mount is entered, nothing above is reached.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The directory at an absolute path of the host's administrator.
pub(super) fn root(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, READ | OFlags::DIRECTORY, Mode::empty())
}

/// What is at a relative path in `directory`.
pub(super) fn inside(directory: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let open = |more| {
        rustix::fs::openat2(directory.as_fd(), path, READ | flags | more, Mode::empty(), INSIDE)
    };
    // Not everybody may leave access times as they are.
    match open(OFlags::NOATIME) {
        Err(Errno::PERM) => open(OFlags::empty()),
        opened => opened,
    }
}

/// What the file of this name is like; the empty name is `directory` itself.
pub(super) fn look(directory: impl AsFd, name: &CStr) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// What is in a directory.
pub(super) enum Listing {
    /// The names, sorted, so that equal trees make equal layers.
    Names(Vec<CString>),
    /// More names than asked for.
    TooMany,
    /// More bytes of names than a layer may have.
    TooLong,
}

/// Lists a directory of `most` names at most.
pub(super) fn list(directory: impl AsFd, most: usize) -> Result<Listing, Errno> {
    let mut names = Vec::new();
    let mut bytes = 0;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() >= most {
            return Ok(Listing::TooMany);
        }
        bytes += entry.file_name().to_bytes().len();
        if bytes > limits::LAYER_METADATA {
            return Ok(Listing::TooLong);
        }
        names.push(entry.file_name().to_owned());
    }
    names.sort();
    Ok(Listing::Names(names))
}

/// Whether two looks at a file, some time apart, saw the same of it.
pub(super) fn is_same(before: &Statx, after: &Statx) -> bool {
    let key = |stat: &Statx| {
        (
            (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, stat.stx_mode),
            (stat.stx_size, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        )
    };
    key(before) == key(after)
}
