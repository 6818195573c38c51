//! What tells a snapshot's directory from every other, so that its blob is found again and no other one is taken for it.
//!
//! containerd names snapshots by number, and begins anew when its database is lost, so that neither a path nor an inode number says what a directory holds.
//! The time of a directory's birth and that of its last change do: a directory that is made later has later ones, whatever its name and inode. So the
//! stamp has
//! - the file system: device number and identifier,
//! - the directory: inode, birth time, change time, modification time, owner and mode,
//! - each thing in it: name, inode, kind and mode, size, change time, modification time, which shows what was added, removed or replaced
//!   in the directories at the top too.
//!
//! A lower directory of an overlay is of a committed snapshot, which containerd never writes to again. An administrator who edits a file deep in one all
//! the same does what overlayfs calls undefined, and only a change that shows in the stamp is seen.
//!
//! A directory on which an EROFS file is mounted is as old as that file, which has the same stamp wherever it is mounted: file system, inode, times, size.
//!
//! Whatever is in doubt is made anew: another device number after a restart, other times. A file system without birth times is refused.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Statx, StatxFlags, StatxTimestamp},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{
    Marks, WalkError,
    image::Image,
    open::{self, Listing},
};
use crate::{Digest, limits, path::display};

/// Changes whenever blobs are made otherwise.
const VERSION: &str = "bulkhead snapshot 1";

/// The stamp of the directory.
pub(super) fn of(root: &OwnedFd, marks: Marks) -> Result<Digest, WalkError> {
    let mut hasher = begin(root, marks)?;
    // Too large a directory is refused when it is read.
    if let Listing::Names(names) = open::list(root, limits::LAYER_ENTRIES).map_err(unreadable)? {
        for name in names {
            let look = open::look(root, &name)
                .map_err(|_| WalkError::Changed(display(name.to_bytes())))?;
            hasher.update(name.as_bytes_with_nul());
            add(&look, &mut hasher);
        }
    }
    Ok(Digest::finish(hasher))
}

/// The stamp of a directory that is a mounted file.
pub(super) fn of_image(image: &Image, marks: Marks) -> Result<Digest, WalkError> {
    // Its mode tells it from a directory.
    begin(&image.file, marks).map(Digest::finish)
}

/// What it is, without what is in it.
fn begin(file: impl AsFd, marks: Marks) -> Result<Sha256, WalkError> {
    let look = open::look(&file, c"").map_err(unreadable)?;
    if !tells_birth(&look) {
        return Err(WalkError::NoBirthTime);
    }
    let file_system = rustix::fs::fstatvfs(&file).map_err(unreadable)?.f_fsid;
    let mut hasher = Sha256::new();
    hasher.update(format!(
        "{VERSION} {}\n{}:{} {file_system:x} {} {} {}\n",
        marks.name(),
        look.stx_dev_major,
        look.stx_dev_minor,
        time(&look.stx_btime),
        look.stx_uid,
        look.stx_gid,
    ));
    add(&look, &mut hasher);
    Ok(hasher)
}

fn unreadable(errno: Errno) -> WalkError {
    WalkError::read(".".into(), errno)
}

/// Whether the file system of a directory says when it was made.
pub(super) fn tells_birth(look: &Statx) -> bool {
    look.stx_mask & StatxFlags::BTIME.bits() != 0
}

fn add(look: &Statx, hasher: &mut Sha256) {
    hasher.update(format!(
        "{} {:o} {} {} {}\n",
        look.stx_ino,
        look.stx_mode,
        look.stx_size,
        time(&look.stx_ctime),
        time(&look.stx_mtime),
    ));
}

fn time(time: &StatxTimestamp) -> String {
    format!("{}.{:09}", time.tv_sec, time.tv_nsec)
}
