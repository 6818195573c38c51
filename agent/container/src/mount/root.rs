//! The container's root: a directory that is there, or an image and what is laid over it; and the change into it.

use std::{
    ffi::CStr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
};

use crate::{
    error::{Error, at},
    sys,
};

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
    /// An ext4 file system on this block device, which is written to.
    Disk(PathBuf),
}

/// The read-only part of a root.
#[derive(Debug, Clone)]
pub enum Lower {
    /// An EROFS file system on this block device.
    Erofs(PathBuf),
    /// An ext4 file system on this block device.
    Ext4(PathBuf),
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
    /// Directories of one mount whose files can have attributes `user.*`.
    Directory {
        /// What is written, by its absolute path.
        upper: PathBuf,
        /// overlayfs's own.
        work: PathBuf,
    },
}

/// Tables that are not zeroed yet are left as they are, instead of by a thread that zeroes them; bitmaps are read when they are needed, instead of
/// all at once, and so are blocks of inodes, instead of 32 for the first inode; no tree is made of where all groups have their metadata, to compare with
/// each block that a file is said to have.
const EXT4_OPTIONS: &CStr =
    c"noinit_itable,no_prefetch_block_bitmaps,inode_readahead_blks=0,noblock_validity";

/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// Puts the root together and returns where it is. `scratch` is a directory with the directories `lower`, `upper` and
/// `root` for mounts. In a mount namespace of its own, only that sees them; `shared`: its mounts stay peers of the outside's
/// (`linux.rootfsPropagation`).
pub(crate) fn prepare(
    root: &Root,
    scratch: &Path,
    entry: Entry,
    shared: bool,
) -> Result<PathBuf, Error> {
    let apart = shared && entry != Entry::Chroot;
    if apart {
        // Neither the root nor what it is mounted on may be shared for pivot_root(2).
        let on = if let Root::Directory(path) = root { path } else { scratch };
        make_private(mount_above(on)?)?;
    }
    let path = match root {
        Root::Directory(path) => {
            rustix::mount::mount_bind_recursive(path, path)
                .map_err(at("mount the root (root.path)", path.display()))?;
            path.clone()
        }
        Root::Disk(device) => {
            let root = scratch.join("root");
            disk(device, &root, "ext4", MountFlags::empty(), Some(EXT4_OPTIONS))?;
            root
        }
        Root::Layers { lower, upper } => {
            let (device, kind, options) = match lower {
                Lower::Erofs(device) => (device, "erofs", None),
                Lower::Ext4(device) => (device, "ext4", Some(EXT4_OPTIONS)),
            };
            let lower = scratch.join("lower");
            disk(device, &lower, kind, MountFlags::RDONLY, options)?;
            lay_over(&lower, upper, scratch)?
        }
    };
    if apart {
        make_private(&path)?;
    }
    Ok(path)
}

/// Sets the propagation of all mounts of a new mount namespace: nothing that is mounted here shows up outside, unless they
/// are to stay `shared`.
pub(crate) fn keep_apart(shared: bool) -> Result<(), Error> {
    let kind =
        if shared { MountPropagationFlags::SHARED } else { MountPropagationFlags::DOWNSTREAM };
    rustix::mount::mount_change("/", kind | MountPropagationFlags::REC)
        .map_err(at("set the propagation of", "/"))
}

fn make_private(path: &Path) -> Result<(), Error> {
    rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE)
        .map_err(at("make private", path.display()))
}

/// The mount point that `path` is below, or is itself.
fn mount_above(path: &Path) -> Result<&Path, Error> {
    for point in path.ancestors() {
        let stat = rustix::fs::statx(CWD, point, AtFlags::empty(), StatxFlags::TYPE)
            .map_err(at("look at", point.display()))?;
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(point);
        }
    }
    Ok(Path::new("/"))
}

/// The mount that is on top at `path`, by its number in this process's mount namespace.
pub(crate) fn mount_at(path: &Path) -> Result<u64, Error> {
    rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map(|stat| stat.stx_mnt_id)
        .map_err(at("look at", path.display()))
}

fn lay_over(lower: &Path, upper: &Upper, scratch: &Path) -> Result<PathBuf, Error> {
    let over = scratch.join("upper");
    let own = [over.join("upper"), over.join("work")];
    let ([upper, work], options) = match upper {
        Upper::None => return Ok(lower.to_owned()),
        Upper::Ext4(device) => {
            disk(device, &over, "ext4", MountFlags::empty(), Some(EXT4_OPTIONS))?;
            (own.each_ref(), "")
        }
        Upper::Tmpfs => {
            disk(Path::new("tmpfs"), &over, "tmpfs", MountFlags::empty(), Some(c"mode=755"))?;
            make_directories(own.each_ref()).map_err(at("make directories in", over.display()))?;
            (own.each_ref(), ",volatile")
        }
        Upper::Directory { upper, work } => ([upper, work], ",userxattr"),
    };
    let root = scratch.join("root");
    let data = format!(
        "lowerdir={},upperdir={},workdir={}{options}\0",
        lower.display(),
        upper.display(),
        work.display()
    );
    let data = CStr::from_bytes_until_nul(data.as_bytes()).unwrap_or_default();
    let overlay = || rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), data);
    let mounted = match overlay() {
        Err(Errno::NOENT) => {
            make_point(&root)?;
            // A fresh upper file system does not have its two directories yet.
            make_directories([upper, work]).and_then(|()| overlay())
        }
        mounted => mounted,
    };
    mounted.map_err(at("mount overlayfs on", root.display()))?;
    Ok(root)
}

fn make_directories(paths: [&PathBuf; 2]) -> Result<(), Errno> {
    for path in paths {
        match rustix::fs::mkdir(path, DIRECTORY) {
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
            // A drive that has just got its medium: the kernel has not heard of it yet.
            Err(_) if kind != "tmpfs" && sys::is_empty_disk(device) => {
                if waited >= PATIENCE {
                    return Err(at("mount", device.display())(Errno::NOMEDIUM));
                }
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
pub(crate) fn make_point(on: &Path) -> Result<(), Error> {
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
pub(crate) struct Outside {
    old: OwnedFd,
    new: OwnedFd,
}

impl Outside {
    /// Makes `path` the root of this process for a while.
    pub(crate) fn look_in(path: &Path) -> Result<Self, Error> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(at("open", path.display()))
        };
        let (old, new) = (open(Path::new("/"))?, open(path)?);
        rustix::process::fchdir(&new)
            .and_then(|()| rustix::process::chroot("."))
            .map_err(at("enter", path.display()))?;
        Ok(Self { old, new })
    }

    /// Goes back and returns the container's root, which this process may not be able to find by its path any more.
    pub(crate) fn go_back(self) -> Result<OwnedFd, Error> {
        rustix::process::fchdir(&self.old)
            .and_then(|()| rustix::process::chroot("."))
            .map_err(at("go back to", "the old root"))?;
        Ok(self.new)
    }
}

/// Makes the directory that this process is in, a mount, its root, and lets go of the old one
/// (pivot_root(2), "pivot_root(".", ".")").
pub(crate) fn enter(entry: Entry) -> Result<(), Error> {
    match entry {
        Entry::Pivot => rustix::process::pivot_root(".", ".")
            .and_then(|()| rustix::mount::unmount(".", UnmountFlags::DETACH)),
        Entry::Move => rustix::mount::mount_move(".", "/")
            .and_then(|()| rustix::process::chroot("."))
            .and_then(|()| rustix::process::chdir("/")),
        Entry::Chroot => rustix::process::chroot("."),
    }
    .map_err(at("make a root of", "root.path"))
}
