//! What overlayfs writes into its directories beside files (Documentation/filesystems/overlayfs.rst): whiteouts, and marks in extended attributes.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::{
    fs::{FileType, Statx, XattrFlags},
    io::Errno,
};

use serde::{Deserialize, Serialize};

use super::WalkError;
use crate::path::display;

const TRUSTED: &[u8] = b"trusted.overlay.";
const USER: &[u8] = b"user.overlay.";
const OPAQUE: [&CStr; 2] = [c"trusted.overlay.opaque", c"user.overlay.opaque"];
/// Marks that make a file something other than what its directory shows.
const UNFOLLOWED: [&[u8]; 3] = [b"redirect", b"metacopy", b"whiteout"];
/// The longest list of names and the longest value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_XATTR: usize = 64 << 10;

/// In which attributes an overlay keeps its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Marks {
    /// `trusted.overlay.*`, which is usual.
    Trusted,
    /// `user.overlay.*`: mounted with the option `userxattr`.
    User,
}

impl Marks {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::User => "user",
        }
    }

    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => TRUSTED,
            Self::User => USER,
        }
    }
}

/// A file whose attributes are read: an open one, or one by its name in an open directory, which is not followed.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a CStr),
}

impl Of<'_> {
    fn list(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(file) => rustix::fs::flistxattr(file, buffer),
            Self::Named(directory, name) => rustix::fs::llistxattr(place(directory, name), buffer),
        }
    }

    fn get(self, attribute: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(file) => rustix::fs::fgetxattr(file, attribute, buffer),
            Self::Named(directory, name) => {
                rustix::fs::lgetxattr(place(directory, name), attribute, buffer)
            }
        }
    }
}

/// There is no call for the attributes of a name in an open directory before Linux 6.13.
fn place(directory: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name.to_bytes()].concat()
}

/// A file's extended attributes, those of overlayfs taken out.
#[derive(Default)]
pub(super) struct Xattrs {
    pub(super) rest: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) opaque: bool,
}

/// Reads attributes. One for many files, since it has the buffers.
pub(super) struct Reader {
    marks: Marks,
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Reader {
    pub(super) fn new(marks: Marks) -> Self {
        Self { marks, names: vec![0; MAX_XATTR], value: vec![0; MAX_XATTR] }
    }

    /// The attributes of one file; `entry` names it in errors.
    pub(super) fn read(
        &mut self,
        file: Of<'_>,
        entry: &dyn Fn() -> String,
    ) -> Result<Xattrs, WalkError> {
        let failed = |errno| WalkError::read(entry(), errno);
        let mut found = Xattrs::default();
        let length = match file.list(&mut self.names) {
            Err(Errno::OPNOTSUPP) => return Ok(found),
            length => length.map_err(failed)?,
        };
        let names = self.names.get(..length).unwrap_or_default();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let length = file.get(name, &mut self.value).map_err(failed)?;
            let value = self.value.get(..length).unwrap_or_default();
            let Some(mark) = name.strip_prefix(self.marks.prefix()) else {
                // What other overlays mean by theirs is not for the guest's.
                if !name.starts_with(TRUSTED) && !name.starts_with(USER) {
                    found.rest.push((name.to_vec(), value.to_vec()));
                }
                continue;
            };
            match mark {
                b"opaque" if value == b"y" => found.opaque = true,
                // "x": among the files there are whiteouts in attributes.
                b"opaque" if value == b"x" => {
                    return Err(WalkError::Mark { entry: entry(), name: display(name) });
                }
                _ if UNFOLLOWED.contains(&mark) => {
                    return Err(WalkError::Mark { entry: entry(), name: display(name) });
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// A character device 0:0 stands for a name that is hidden.
pub(super) fn is_whiteout(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::CharacterDevice
        && (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0)
}

/// Gives a directory that is opaque by one kind of mark the other one. Returns whether it lacked one.
pub(super) fn copy_opaque(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let has = |name| {
        let mut value = [0; 2];
        match rustix::fs::fgetxattr(directory, name, &mut value) {
            Ok(1) => Ok(value[0] == b'y'),
            Ok(_) | Err(Errno::NODATA | Errno::RANGE | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno),
        }
    };
    let lacking = match (has(OPAQUE[0])?, has(OPAQUE[1])?) {
        (true, false) => OPAQUE[1],
        (false, true) => OPAQUE[0],
        _ => return Ok(false),
    };
    rustix::fs::fsetxattr(directory, lacking, b"y", XattrFlags::empty())?;
    Ok(true)
}
