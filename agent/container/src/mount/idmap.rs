//! Mounts whose owners are mapped (mount_setattr(2), "ID-mapped mounts"). The map is a user namespace's; one is made for
//! it, with a process that lives as long as it takes to open it.

use std::{
    ffi::c_void,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::make::open_tree;
use crate::{
    clone,
    container::Process,
    error::{Error, at},
    idmap::Maps,
    procfs, report,
    sys::{self, MountAttr},
};

/// `MOUNT_ATTR_IDMAP`.
const IDMAP: u64 = libc::MOUNT_ATTR_IDMAP;

/// A copy of the mount at `source`, attached nowhere, whose owners are mapped. `tree`: with the mounts below it;
/// `whole`: those are mapped, too.
pub(super) fn open(source: &str, tree: bool, whole: bool, maps: &Maps) -> Result<OwnedFd, Error> {
    let copy = open_tree(source, tree).map_err(at("open the mount source", source))?;
    map(copy.as_fd(), source, whole, maps)?;
    Ok(copy)
}

/// Maps the owners of a mount that is attached nowhere; `source` is its name in errors.
pub(super) fn map(
    mount: BorrowedFd<'_>,
    source: &str,
    whole: bool,
    maps: &Maps,
) -> Result<(), Error> {
    let namespace = user_namespace(maps)?;
    let userns_fd = u64::from(namespace.as_raw_fd().cast_unsigned());
    let attr = MountAttr { set: IDMAP, userns_fd, ..MountAttr::default() };
    sys::mount_setattr(mount, c"", whole, &attr).map_err(at(
        "map the owners (its file system must support that; overlayfs, ext4, xfs, btrfs and tmpfs do) of mount source",
        source,
    ))
}

fn user_namespace(maps: &Maps) -> Result<OwnedFd, Error> {
    let (ours, theirs) = report::pair()?;
    let argument = theirs.as_raw_fd() as *mut c_void;
    // SAFETY: `hold` never returns, and uses nothing but its argument, which is a number.
    let cloned = unsafe { clone::clone(libc::CLONE_NEWUSER as u64, None, None, hold, argument) };
    drop(theirs);
    let cloned = cloned.map_err(at("make", "a user namespace for mapped mounts"))?;
    let process = Process::new(cloned.pid, cloned.pidfd);
    let opened = maps.write(process.pid()).and_then(|()| procfs::open(process.pid(), "ns/user"));
    process.end();
    drop(ours);
    opened
}

/// Ends when the maker, which kills it otherwise, has died.
unsafe extern "C" fn hold(socket: *mut c_void) -> ! {
    let number = u32::try_from(socket as usize).unwrap_or(u32::MAX);
    let _ = sys::close_range(0, number.saturating_sub(1));
    let _ = sys::close_range(number.saturating_add(1), u32::MAX);
    // SAFETY: the maker made it for this process, where nothing else uses it.
    let socket = unsafe { BorrowedFd::borrow_raw(number.cast_signed()) };
    report::wait(socket);
    sys::exit(0)
}
