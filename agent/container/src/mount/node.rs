//! Device nodes and the links beside them (config-linux.md, "Default Devices"; runtime-linux.md, "Dev symbolic links").

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags},
};

use crate::{
    error::{Error, at},
    path::{self, PointKind},
    spec::{Device, DeviceType},
};

const DEV: &str = "/dev";

const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// In `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Where there are nodes and links in `/dev` when these nodes are wanted.
pub(super) fn paths(wanted: &[Device]) -> impl Iterator<Item = String> {
    let nodes = wanted.iter().map(|device| path::clean(&device.path));
    let defaults = DEFAULTS.into_iter().map(|(path, ..)| path.to_owned());
    nodes.chain(defaults).chain(LINKS.into_iter().map(|(_, link)| format!("{DEV}/{link}")))
}

/// The device nodes of a container.
#[derive(Debug)]
pub(crate) struct Nodes(Vec<Device>);

/// Existing nodes for a container that may not make its own; one for each.
type Originals = Option<Vec<OwnedFd>>;

impl Nodes {
    /// The default nodes, and those of the specification, which come instead of a default one of the same path.
    pub(crate) fn new(wanted: &[Device]) -> Self {
        let mut nodes: Vec<_> = wanted
            .iter()
            .map(|device| Device { path: path::clean(&device.path), ..device.clone() })
            .collect();
        for (path, major, minor) in DEFAULTS {
            if nodes.iter().all(|node| node.path != path) {
                nodes.push(Device {
                    path: path.to_owned(),
                    kind: DeviceType::Character,
                    major,
                    minor,
                    file_mode: None,
                    uid: 0,
                    gid: 0,
                });
            }
        }
        Self(nodes)
    }

    /// Opens the agent's own nodes of the same paths: in a user namespace mknod(2) is not allowed.
    pub(crate) fn originals(&self) -> Result<Vec<OwnedFd>, Error> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        self.0
            .iter()
            .map(|node| {
                rustix::mount::open_tree(CWD, &node.path, flags)
                    .map_err(at("open the device", &node.path))
            })
            .collect()
    }

    /// Makes the nodes and links; the process's root is the container's, and its umask 0. No link on the way to a node is
    /// followed out of the root: a device elsewhere would be the outside's.
    pub(crate) fn make(&self, originals: Originals) -> Result<(), Error> {
        let dev = match path::open(DEV, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => path::make(DEV, PointKind::Directory)
                .and_then(|()| path::open(DEV, OFlags::PATH | OFlags::DIRECTORY)),
            dev => dev,
        }
        .map_err(at("open", DEV))?;
        if let Some(originals) = originals {
            for (node, original) in self.0.iter().zip(originals) {
                bind(&node.path, &original).map_err(at("mount the device", &node.path))?;
            }
        } else {
            for node in &self.0 {
                make(node, &dev).map_err(at("make the device", &node.path))?;
            }
        }
        for (target, link) in LINKS {
            let make = || rustix::fs::symlinkat(target, &dev, link);
            match make() {
                Ok(()) => {}
                // An image's own /dev/ptmx would lead to the terminals of another instance.
                Err(Errno::EXIST) if link == "ptmx" => {
                    rustix::fs::unlinkat(&dev, link, AtFlags::empty())
                        .and_then(|()| make())
                        .map_err(at("make the link in /dev:", link))?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(at("make the link in /dev:", link)(errno)),
            }
        }
        Ok(())
    }
}

fn make(node: &Device, dev: &OwnedFd) -> Result<(), Errno> {
    let kind = match node.kind {
        DeviceType::Block => FileType::BlockDevice,
        DeviceType::Fifo => FileType::Fifo,
        DeviceType::Character | DeviceType::All => FileType::CharacterDevice,
    };
    let mode = Mode::from_raw_mode(node.file_mode.unwrap_or(0o666) & 0o7777);
    let device = rustix::fs::makedev(node.major, node.minor);
    let (parent, name) = node.path.rsplit_once('/').unwrap_or_default();
    let other;
    let dir = if parent == DEV {
        dev
    } else {
        let parent = if parent.is_empty() { "/" } else { parent };
        path::make(parent, PointKind::Directory)?;
        other = path::open(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        &other
    };
    match rustix::fs::mknodat(dir, name, kind, mode, device) {
        Ok(()) if node.uid != 0 || node.gid != 0 => {
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        // It is the image's or the mount's, as with runc.
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

fn bind(path: &str, original: &OwnedFd) -> Result<(), Errno> {
    path::make(path, PointKind::File)?;
    let point = path::open(path, OFlags::PATH)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(original, "", &point, "", flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_node_comes_instead_of_the_default_one() {
        let device = Device {
            path: "/dev//null".into(),
            kind: DeviceType::Character,
            major: 1,
            minor: 3,
            file_mode: Some(0o600),
            uid: 7,
            gid: 0,
        };
        let nodes = Nodes::new(&[device]);
        assert_eq!(nodes.0.len(), DEFAULTS.len());
        assert_eq!(nodes.0[0].path, "/dev/null");
        assert_eq!(nodes.0[0].file_mode, Some(0o600));
    }
}
