//! The host's control groups, as every runtime can work with them.

use std::{fs, sync::OnceLock};

use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::Reason;

/// Hides the tree of cgroup v2 of a host that has version 1, too, from this process and its children: crun 1.8 refuses such a
/// host. Returns which versions there are now.
pub(crate) fn leave_hybrid() -> Result<&'static str, Reason> {
    static LEFT: OnceLock<Result<&'static str, Reason>> = OnceLock::new();
    LEFT.get_or_init(leave).clone()
}

fn leave() -> Result<&'static str, Reason> {
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    let mounts = mounts.map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let (first, second) = (mounts.contains(" - cgroup "), mounts.contains(" - cgroup2 "));
    if !(first && second) {
        return Ok(if second { "cgroup v2" } else { "cgroup v1" });
    }
    // SAFETY: only this process's view of the mounts becomes its own; nothing is shared that others rely on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|error| format!("unshare: {error}"))?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(|error| format!("mounts cannot be private: {error}"))?;
    for line in mounts.lines().filter(|line| line.contains(" - cgroup2 ")) {
        let Some(place) = line.split(' ').nth(4) else { continue };
        unmount(place, UnmountFlags::DETACH).map_err(|error| format!("umount {place}: {error}"))?;
    }
    Ok("cgroup v1; the host's tree of v2 is hidden from all, because crun refuses such a mixture")
}
