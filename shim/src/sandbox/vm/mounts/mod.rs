//! A root that containerd's mounts make, as disks and shares of a microVM, without mounting anything on the host:
//!
//! | mounts | in the guest |
//! |---|---|
//! | `overlay` without an upper directory | a disk of the lower directories, writes refused |
//! | `overlay` | the same disk, and the upper directory over virtio-fs |
//! | `bind` | the directory over virtio-fs |
//! | `ext4`, of a block device or of a file (`loop`) | that file system as a disk |
//! | `erofs`, of a block device or of a file | that file system as a disk, writes refused |
//!
//! Anything else is the caller's to mount, and so are all but binds for a container with a user namespace: there is no disk that it could mount.

mod parse;
#[cfg(test)]
mod tests;

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use bulkhead_rootfs::{
    Store,
    snapshot::{self, Marks},
};
use parse::Asked;

use super::{Mount, SandboxError};
use crate::monitor::chain;

/// A root as media of a machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A directory of the host.
    Directory {
        /// Its path.
        path: PathBuf,
        /// The host's kernel refuses every change.
        read_only: bool,
    },
    /// A file system that is only read; what is written over it stays in memory.
    Lower {
        /// The disk's files.
        files: Vec<PathBuf>,
        /// What is on it.
        kind: Kind,
    },
    /// An EROFS file system that is only read, and a directory of the host for what is written over it.
    Over {
        /// The disk's files.
        files: Vec<PathBuf>,
        /// The directory that holds the two others and nothing else.
        snapshot: PathBuf,
        /// The name of the upper directory in it.
        upper: String,
        /// The name of overlayfs's own.
        work: String,
        /// The host's overlayfs keeps its marks where a guest's cannot ([`snapshot::Upper::settle`]).
        settles: bool,
    },
    /// An ext4 file system that is written to.
    Disk(PathBuf),
}

/// A file system on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Erofs,
    Ext4,
}

/// Whether a microVM's root can be made of these mounts without mounting them on the host. Looks at the directories, and changes nothing. Sandboxes of
/// mounts that are not taken are refused; those of mounts that are can still turn out to be impossible ([`SandboxError::Mounts`]).
#[must_use]
pub fn takes(mounts: &[Mount]) -> bool {
    parse::parse(mounts).is_ok_and(|asked| check(&asked).is_ok())
}

/// What of a container decides how its root is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Container {
    /// It writes nothing to its root.
    pub(super) read_only: bool,
    /// It has a user namespace.
    pub(super) in_user: bool,
}

/// The media of a container's root. Makes the disk of an overlay's lower directories, if `store` does not
/// have it.
///
/// # Errors
/// [`SandboxError::Mounts`].
pub(super) fn take(
    mounts: &[Mount],
    container: Container,
    store: impl FnOnce() -> Result<Store, SandboxError>,
) -> Result<Taken, SandboxError> {
    let refused = |why: String| SandboxError::Mounts(format!("the root's mounts: {why}"));
    let asked = parse::parse(mounts).map_err(refused)?;
    check(&asked).map_err(refused)?;
    if container.in_user && !matches!(asked, Asked::Bind { .. }) {
        // mount_namespaces(7): its mount namespace belongs to its user namespace.
        return Err(refused("a container with a user namespace can mount no disk".into()));
    }
    let (lower, upper, marks) = match asked {
        Asked::Bind { path, read_only } => return Ok(Taken::Directory { path, read_only }),
        Asked::Disk { path, kind: Kind::Ext4, read_only: false } => return Ok(Taken::Disk(path)),
        Asked::Disk { path, kind, .. } => return Ok(Taken::Lower { files: vec![path], kind }),
        Asked::Overlay { lower, upper, marks } => (lower, upper, marks),
    };
    let made = snapshot::disk(&store()?, &lower, marks);
    let files = made.map_err(|error| refused(chain(&error)))?;
    // A directory with nothing in it, and to which nothing is written, need not be there.
    let upper = upper.filter(|upper| !(container.read_only && is_empty(&upper.path())));
    let Some(upper) = upper else { return Ok(Taken::Lower { files, kind: Kind::Erofs }) };
    let settles = marks == Marks::Trusted;
    if settles {
        snapshot::Upper::open(&upper.path())
            .and_then(|upper| upper.settle())
            .map_err(|error| refused(chain(&error)))?;
    }
    let parse::Upper { snapshot, upper, work } = upper;
    Ok(Taken::Over { files, snapshot, upper, work, settles })
}

/// What the paths must be; the error is why not.
fn check(asked: &Asked) -> Result<(), String> {
    let found =
        |path: &Path| fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()));
    match asked {
        Asked::Bind { path, .. } => {
            if !found(path)?.is_dir() {
                return Err(format!("{} is no directory", path.display()));
            }
        }
        Asked::Disk { path, .. } => {
            let kind = found(path)?.file_type();
            if !kind.is_file() && !kind.is_block_device() {
                return Err(format!("{} is no file and no block device", path.display()));
            }
        }
        Asked::Overlay { lower, upper, .. } => {
            if let Some(path) = lower.iter().find(|path| !snapshot::is_known(path)) {
                let why = "cannot be read, or its file system tells no birth times";
                return Err(format!("{} {why}", path.display()));
            }
            if let Some(upper) = upper {
                upper.check()?;
            }
        }
    }
    Ok(())
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
