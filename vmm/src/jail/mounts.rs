//! The jail's root directory: a small tmpfs of its own with parts of the host bound into it.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, ResolveFlags, StatxFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        UnmountFlags,
    },
};

use crate::api::{clone_tree, restrict};

/// What may be done with a part of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Mounts that are made here stay here; those that the host makes below what is bound still appear.
pub(super) fn stop_propagation() -> Result<(), Errno> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags)
}

/// The root directory while it is made.
pub(super) struct Root(OwnedFd);

impl Root {
    /// An empty one with room for so many files, on top of the present root directory.
    pub(super) fn new(files: usize) -> Result<Self, Errno> {
        let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [("mode", "0755"), ("size", "4k")] {
            rustix::mount::fsconfig_set_string(&tmpfs, key, value)?;
        }
        rustix::mount::fsconfig_set_string(&tmpfs, "nr_inodes", files.to_string())?;
        rustix::mount::fsconfig_create(&tmpfs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = rustix::mount::fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        rustix::mount::move_mount(&root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(Self(root))
    }

    pub(super) fn make_directory(&self, place: &str) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.0, place, Mode::from_raw_mode(0o755))
    }

    /// Binds `path` of the host, with all that is mounted below it, to the new `place`. `resolve` says which links may be followed.
    pub(super) fn bind(
        &self,
        path: &Path,
        resolve: ResolveFlags,
        place: &str,
        access: Access,
    ) -> Result<(), Errno> {
        let tree = clone_tree(path, resolve)?;
        let facts = rustix::fs::statx(&tree, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        if FileType::from_raw_mode(facts.stx_mode.into()) == FileType::Directory {
            self.make_directory(place)?;
        } else {
            let mode = Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(&self.0, place, FileType::RegularFile, mode, 0)?;
        }
        restrict(&tree, access == Access::Read, true)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree, c"", &self.0, place, flags)
    }

    /// Makes it the root directory of this process and lets go of the one before.
    pub(super) fn enter(self) -> Result<(), Errno> {
        restrict(&self.0, true, false)?;
        rustix::process::fchdir(&self.0)?;
        // The old root directory comes to lie on top of the new one, from where it is taken away.
        rustix::process::pivot_root(c".", c".")?;
        rustix::mount::unmount(c".", UnmountFlags::DETACH)
    }
}
