//! Mounts of type `cgroup`: the container's own group, whichever versions of control groups this system has. Version 2
//! is one file system. Version 1 is a tmpfs with a directory for each hierarchy, and, where version 2 is there, too, one
//! for that.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, CWD, Mode},
    io::Errno,
    mount::MountFlags,
};

use super::{
    make::{attach, open_tree},
    plan::{Mount, Plan},
};
use crate::{
    cgroup::{Cgroup, Version},
    error::{Error, at},
    path::{self, PointKind},
    sys::{self, MountAttr},
};

/// A hierarchy and the container's group in it.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    version: Version,
    /// As mount(2) takes them.
    controllers: String,
    path: String,
}

/// A group whose directory is to be seen; `None` when the container's cgroup namespace shows it.
pub(super) type Opened = Option<OwnedFd>;

/// The groups of a container.
pub(crate) fn groups(cgroup: Option<&Cgroup>) -> Vec<Group> {
    let places = cgroup.into_iter().flat_map(Cgroup::places);
    places
        .map(|place| Group {
            version: place.version,
            controllers: place.controllers.to_owned(),
            path: place.path.to_owned(),
        })
        .collect()
}

impl Group {
    /// What its directory is called.
    fn name(&self) -> &str {
        match self.version {
            Version::V1 => {
                self.controllers.strip_prefix("name=").unwrap_or(self.controllers.as_str())
            }
            Version::V2 => "unified",
        }
    }
}

/// Without a cgroup namespace, a mount of a hierarchy would show every group there is.
pub(super) fn open(plan: &Plan) -> Result<Vec<Opened>, Error> {
    plan.groups
        .iter()
        .map(|group| match plan.cgroup_namespace {
            true => Ok(None),
            false => {
                open_tree(&group.path, false).map(Some).map_err(at("open the cgroup", &group.path))
            }
        })
        .collect()
}

pub(super) fn make(mount: &Mount, opened: Vec<Opened>, plan: &Plan) -> Result<(), Error> {
    let on = &mount.destination;
    let flags = mount.options.flags.mount();
    let hierarchies: Vec<_> = plan.groups.iter().zip(opened).collect();
    let exists = || rustix::fs::statat(CWD, on, AtFlags::empty()).is_ok();
    if plan.shared || hierarchies.len() > 1 && !exists() {
        path::make(on, PointKind::Directory).map_err(at("make", on))?;
    }
    match hierarchies.as_slice() {
        // Of a guest's kernel, for an agent that was told of no groups.
        [] => one(None, None, on, flags),
        [(group, opened)] if group.version == Version::V2 => {
            one(Some(group), opened.as_ref(), on, flags)
        }
        all => {
            let data = c"mode=755";
            let writable = flags - MountFlags::RDONLY;
            rustix::mount::mount("cgroup", on, "tmpfs", writable, data)
                .map_err(at("mount tmpfs for cgroups on", on))?;
            for (group, opened) in all {
                let below = format!("{on}/{}", group.name());
                rustix::fs::mkdir(&below, Mode::from_raw_mode(0o755))
                    .map_err(at("make", &below))?;
                one(Some(group), opened.as_ref(), &below, flags)?;
                links(group, on)?;
            }
            if flags.contains(MountFlags::RDONLY) {
                rustix::mount::mount_remount(on, MountFlags::BIND | flags, c"")
                    .map_err(at("make read-only", on))?;
            }
            Ok(())
        }
    }
}

fn one(
    group: Option<&Group>,
    opened: Option<&OwnedFd>,
    on: &str,
    flags: MountFlags,
) -> Result<(), Error> {
    let mount = || match (group, opened) {
        (_, Some(tree)) => {
            let attr = MountAttr { set: attributes(flags), ..MountAttr::default() };
            sys::mount_setattr(std::os::fd::AsFd::as_fd(tree), c"", false, &attr)
                .and_then(|()| attach(tree, on, false))
        }
        (Some(group), None) if group.version == Version::V1 => {
            let data = std::ffi::CString::new(group.controllers.as_str()).unwrap_or_default();
            rustix::mount::mount("cgroup", on, "cgroup", flags, &*data)
        }
        _ => rustix::mount::mount("cgroup", on, "cgroup2", flags, None),
    };
    let mounted = match mount() {
        Err(Errno::NOENT) => path::make(on, PointKind::Directory).and_then(|()| mount()),
        mounted => mounted,
    };
    mounted.map_err(at("mount cgroup on", on))
}

fn attributes(flags: MountFlags) -> u64 {
    [
        (MountFlags::RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, libc::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ]
    .iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .fold(0, |all, (_, bit)| all | bit)
}

/// `cpu` and `cpuacct` lead to `cpu,cpuacct`, as on a host.
fn links(group: &Group, on: &str) -> Result<(), Error> {
    let name = group.name();
    if group.version == Version::V2 || !name.contains(',') {
        return Ok(());
    }
    for controller in name.split(',') {
        let link = format!("{on}/{controller}");
        match rustix::fs::symlinkat(name, CWD, &link) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(at("make the link", link)(errno)),
        }
    }
    Ok(())
}
