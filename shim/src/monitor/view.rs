//! What is seen through the monitor's pid: tools that enter the mount namespace of a container's process (`podman cp`,
//! `nsenter -m`) find the container's root there, or nothing, and never the host's files.

use std::{io, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    process::{chdir, pivot_root},
};

use super::{
    fault::{Fault, to},
    plan::Plan,
};
use crate::sandbox::vm::rewrite::{ROOT_NAME, ROOT_TAG};

/// Moves the main thread, which is who a pid names, into a mount namespace of its own. From now on it opens files only
/// below directories that it has open. Who may not make namespaces has no mounts to hide from anybody but themselves.
///
/// # Errors
/// [`Fault::System`].
pub(crate) fn enter(plan: &Plan) -> Result<(), Fault> {
    // SAFETY: takes no pointers; threads share no mounts or directories by contract, and the others open none later.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            error => Err(to("make a mount namespace")(error)),
        };
    }
    let entries = plan.machine.shares.iter().filter(|share| share.tag == ROOT_TAG);
    // A container that has joined a pod has another name for it.
    let is_root = |name: &str| name.rsplit('.').next() == Some(ROOT_NAME);
    let root = entries.flat_map(|share| &share.entries).find(|entry| is_root(&entry.name));
    change_root(root.map(|entry| entry.path.as_path()), &plan.directory)
        .map_err(to("leave the host's mounts"))
}

fn change_root(root: Option<&Path>, scratch: &Path) -> Result<(), Errno> {
    // What the host unmounts is not held here, and nothing that is mounted here is seen there.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave)?;
    let root = match root {
        Some(root) => {
            rustix::mount::mount_bind_recursive(root, root)?;
            root
        }
        None => {
            let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            rustix::mount::mount("tmpfs", scratch, "tmpfs", flags, c"size=4k")?;
            scratch
        }
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let new = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    rustix::process::fchdir(new)?;
    pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}
