//! Parts of the host's tree of files as mounts without a place (open_tree(2)): what a jail and a share are made of.

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::OpenTreeFlags,
};

/// A mount of what is at `path`, in which no component is a symbolic link, with all that is mounted below it; without devices, set-uid programs and programs at all,
/// and without writing if it is `read_only`. It is what [`Medium::Entry`](super::Medium::Entry) wants.
///
/// # Errors
/// Those of the system calls: `EPERM` without the right to mount.
pub fn mount_of(path: &Path, read_only: bool) -> Result<OwnedFd, Errno> {
    let tree = clone(path, ResolveFlags::NO_SYMLINKS)?;
    restrict(&tree, read_only, true)?;
    Ok(tree)
}

/// The mount as it is. `resolve` says which links may be followed.
pub(crate) fn clone(path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(found, c"", flags)
}

/// Takes away what nobody needs of a mount: devices, set-uid programs, programs at all, and writing.
pub(crate) fn restrict(mount: impl AsFd, read_only: bool, recursive: bool) -> Result<(), Errno> {
    const EMPTY: &CStr = c"";
    let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    if read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    let change =
        libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is zero-terminated and the structure is of the size that is said; both are only read.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
