//! The container's root: a directory that is there, or an image and what is laid over it; and the change into it.

use std::{
    ffi::CStr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
};

use crate::error::{Error, at};

/// Where a container's root file system comes from.
#[derive(Debug, Clone)]
pub enum Root {
    /// A read-only file system and what is laid over it.
    Layers {
        /// The image.
        lower: Lower,
        /// What takes the writes.
        upper: Upper,
    },
    /// A directory that is already there, by its absolute path.
    Directory(PathBuf),
}

/// The read-only part of a root.
#[derive(Debug, Clone)]
pub enum Lower {
    /// An EROFS file system on this block device.
    Erofs(PathBuf),
}

/// What takes the writes to a root.
#[derive(Debug, Clone)]
pub enum Upper {
    /// Nothing: the root is read-only.
    None,
    /// An ext4 file system on this block device, in its directories `upper` and `work`.
    Ext4(PathBuf),
    /// Memory.
    Tmpfs,
}

/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// Puts the root together, in a new mount namespace, and returns where it is. `scratch` is a directory with the
/// directories `lower`, `upper` and `root` for mounts; only this namespace sees them.
pub(crate) fn prepare(root: &Root, scratch: &Path) -> Result<PathBuf, Error> {
    // Nothing that is mounted here may show up outside.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).map_err(at("make a slave mount of", "/"))?;
    match root {
        Root::Directory(path) => {
            rustix::mount::mount_bind_recursive(path, path)
                .map_err(at("mount the root", path.display()))?;
            Ok(path.clone())
        }
        Root::Layers { lower: Lower::Erofs(device), upper } => {
            let lower = scratch.join("lower");
            disk(device, &lower, "erofs", MountFlags::RDONLY, None)?;
            lay_over(&lower, upper, scratch)
        }
    }
}

fn lay_over(lower: &Path, upper: &Upper, scratch: &Path) -> Result<PathBuf, Error> {
    let over = scratch.join("upper");
    let volatile = match upper {
        Upper::None => return Ok(lower.to_owned()),
        Upper::Ext4(device) => {
            // Tables that are not zeroed yet are left as they are, instead of by a thread that zeroes them; bitmaps are
            // read when they are needed, instead of all at once.
            let options = c"noinit_itable,no_prefetch_block_bitmaps";
            disk(device, &over, "ext4", MountFlags::empty(), Some(options))?;
            ""
        }
        Upper::Tmpfs => {
            disk(Path::new("tmpfs"), &over, "tmpfs", MountFlags::empty(), Some(c"mode=755"))?;
            make_directories(&over).map_err(at("make directories in", over.display()))?;
            ",volatile"
        }
    };
    let root = scratch.join("root");
    let data = format!(
        "lowerdir={},upperdir={over}/upper,workdir={over}/work{volatile}\0",
        lower.display(),
        over = over.display()
    );
    let data = CStr::from_bytes_until_nul(data.as_bytes()).unwrap_or_default();
    let overlay = || rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), data);
    let mounted = match overlay() {
        Err(Errno::NOENT) => {
            make_point(&root)?;
            // A fresh upper file system does not have its two directories yet.
            make_directories(&over).and_then(|()| overlay())
        }
        mounted => mounted,
    };
    mounted.map_err(at("mount overlayfs on", root.display()))?;
    Ok(root)
}

fn make_directories(over: &Path) -> Result<(), Errno> {
    for name in ["upper", "work"] {
        match rustix::fs::mkdir(over.join(name), DIRECTORY) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Mounts a file system; a disk for it may be a moment in coming.
fn disk(
    device: &Path,
    on: &Path,
    kind: &str,
    flags: MountFlags,
    data: Option<&CStr>,
) -> Result<(), Error> {
    let mut waited = Duration::ZERO;
    loop {
        match rustix::mount::mount(device, on, kind, flags, data) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) if !exists(on) => make_point(on)?,
            Err(Errno::NOENT | Errno::NXIO) if waited < PATIENCE && !exists(device) => {
                thread::sleep(PAUSE);
                waited += PAUSE;
            }
            Err(errno) => {
                let what = format!("{kind} from {} on {}", device.display(), on.display());
                return Err(at("mount", what)(errno));
            }
        }
    }
}

/// Makes a mount point under the scratch directory.
fn make_point(on: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(on).map_err(|error| {
        at("make", on.display())(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })
}

fn exists(path: &Path) -> bool {
    rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE).is_ok()
}

/// How a process comes to have the container's root as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// pivot_root(2): the old root is gone afterwards.
    Pivot,
    /// The root is moved over the old one, for an old one that cannot be left (an initial RAM file system).
    Move,
    /// Only the process's own root changes: others use the mount namespace, too.
    Chroot,
}

/// The way back from a look into the container's root.
#[derive(Debug)]
pub(crate) struct Outside(OwnedFd);

impl Outside {
    /// Makes `path` the root of this process for a while.
    pub(crate) fn look_in(path: &PathBuf) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open("/", flags, Mode::empty()).map_err(at("open", "the old root"))?;
        rustix::process::chdir(path)
            .and_then(|()| rustix::process::chroot("."))
            .map_err(at("enter", path.display()))?;
        Ok(Self(root))
    }

    pub(crate) fn go_back(self) -> Result<(), Error> {
        rustix::process::fchdir(&self.0)
            .and_then(|()| rustix::process::chroot("."))
            .map_err(at("go back to", "the old root"))
    }
}

/// Makes `path`, a mount, the root of this process, and lets go of the old one (pivot_root(2), "pivot_root(".", ".")").
pub(crate) fn enter(path: &Path, entry: Entry) -> Result<(), Error> {
    rustix::process::chdir(path).map_err(at("enter", path.display()))?;
    match entry {
        Entry::Pivot => rustix::process::pivot_root(".", ".")
            .and_then(|()| rustix::mount::unmount(".", UnmountFlags::DETACH)),
        Entry::Move => rustix::mount::mount_move(".", "/")
            .and_then(|()| rustix::process::chroot("."))
            .and_then(|()| rustix::process::chdir("/")),
        Entry::Chroot => rustix::process::chroot("."),
    }
    .map_err(at("make a root of", path.display()))
}
