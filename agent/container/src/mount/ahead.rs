//! Mounts that are alike whatever root they are in: file systems of the kernel and of memory. They can be made before the
//! root is there, on a stage, and are moved into place as trees.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::MoveMountFlags,
};

use super::{
    make::open_tree,
    plan::{Kind, Mount, Plan},
};
use crate::{
    error::{Error, at},
    path::{self, PointKind},
};

/// How a mount comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// It is made in its root.
    Not,
    /// It has been made, and is moved there, with those below it.
    Tree(RawFd),
    /// It is in the tree of another.
    Within,
}

impl Plan {
    /// The places of the mounts that can be made ahead; none when another mount could make a difference to them.
    pub(crate) fn ahead(&self) -> Vec<usize> {
        let places: Vec<_> =
            (0..self.mounts.len()).filter(|at| self.mounts[*at].is_alike_everywhere()).collect();
        if self.mounts.iter().all(|mount| self.leaves_alone(mount, &places)) {
            places
        } else {
            Vec::new()
        }
    }

    /// Nothing of what was made ahead at these places depends on this mount.
    fn leaves_alone(&self, mount: &Mount, places: &[usize]) -> bool {
        let ahead = || places.iter().map(|at| &self.mounts[*at]);
        if mount.is_late_read_only() || matches!(mount.kind, Kind::Remount { .. }) {
            return false;
        }
        if places.contains(&mount.number) {
            return ahead().filter(|other| other.destination == mount.destination).count() == 1;
        }
        let after = ahead().all(|other| other.number < mount.number || !other.is_in("/dev"));
        mount.destination != "/dev/null"
            && ahead().all(|other| !mount.is_in(&other.destination) || mount.is_in("/dev") && after)
    }

    /// All of these paths are in file systems of the kernel that are made ahead.
    pub(crate) fn has_ahead(&self, places: &[usize], paths: &[String]) -> bool {
        paths.iter().all(|path| {
            let path = path::clean(path);
            places.iter().map(|at| &self.mounts[*at]).any(|mount| {
                matches!(&mount.kind, Kind::New { plain: true, .. })
                    && is_in(&path, &mount.destination)
            })
        })
    }

    /// A tmpfs on `/dev` is made ahead.
    pub(crate) fn has_dev_ahead(&self, places: &[usize]) -> bool {
        places.iter().any(|at| self.mounts[*at].destination == "/dev")
    }

    /// Leaves only the mounts at these places.
    pub(crate) fn keep(&mut self, places: &[usize]) {
        self.mounts.retain(|mount| places.contains(&mount.number));
    }

    /// Takes what was made on the stage, which is this process's root, off it: a tree for each mount that is in no other.
    pub(crate) fn lift(&self) -> Result<Vec<Option<OwnedFd>>, Error> {
        let outer = |mount: &Mount| {
            let mut others = self.mounts.iter();
            !others.any(|other| other.number != mount.number && mount.is_in(&other.destination))
        };
        self.mounts
            .iter()
            .map(|mount| {
                let path = &mount.destination;
                outer(mount).then(|| open_tree(path, true).map_err(at("take", path))).transpose()
            })
            .collect()
    }

    /// The mounts at these places are in these trees.
    pub(crate) fn use_trees(&mut self, places: &[usize], trees: &[Option<RawFd>]) {
        for (place, tree) in places.iter().zip(trees) {
            if let Some(mount) = self.mounts.get_mut(*place) {
                mount.ahead = tree.map_or(Ahead::Within, Ahead::Tree);
            }
        }
    }
}

impl Mount {
    /// Nothing of it comes from the root that it is mounted in or from the outside.
    fn is_alike_everywhere(&self) -> bool {
        match &self.kind {
            Kind::New { kind, .. } if kind == "tmpfs" => {
                // Without a mode it takes that of its mount point.
                let has_mode = self.options.data.split(',').any(|word| word.starts_with("mode="));
                !self.options.copy_up && (has_mode || self.in_fresh)
            }
            Kind::New { kind, .. } => {
                matches!(kind.as_str(), "proc" | "sysfs" | "devpts" | "mqueue")
            }
            Kind::Cgroup => true,
            Kind::Bind { .. } | Kind::Remount { .. } => false,
        }
    }

    fn is_in(&self, directory: &str) -> bool {
        is_in(&self.destination, directory)
    }

    /// Puts a tree that was made ahead where it belongs.
    pub(super) fn move_in(&self, tree: RawFd) -> Result<(), Error> {
        // SAFETY: it was opened for this mount; nobody else in this process knows of it.
        let tree = unsafe { OwnedFd::from_raw_fd(tree) };
        let on = &self.destination;
        let plain = matches!(self.kind, Kind::New { plain: true, .. });
        let resolve = if plain { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat2(CWD, on, flags, Mode::empty(), resolve)
        };
        let point = match open() {
            Err(Errno::NOENT) => path::make(on, PointKind::Directory).and_then(|()| open()),
            point => point,
        };
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        point
            .and_then(|point| rustix::mount::move_mount(&tree, "", &point, "", flags))
            .map_err(at("move into place the mount on", on))
    }
}

/// `path` is `directory` or below it; both are clean.
fn is_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(json: &str) -> Vec<usize> {
        Plan::new(&serde_json::from_str::<Vec<_>>(json).unwrap(), "/bundle", false).unwrap().ahead()
    }

    #[test]
    fn what_is_alike_in_every_root_is_made_ahead() {
        const PROC: &str = r#"{"destination": "/proc", "type": "proc", "source": "proc"}"#;
        const DEV: &str =
            r#"{"destination": "/dev", "type": "tmpfs", "options": ["mode=755", "nosuid"]}"#;
        const SHM: &str = r#"{"destination": "/dev/shm", "type": "tmpfs"}"#;
        const BIND: &str = r#"{"destination": "/data", "source": "/srv", "options": ["bind"]}"#;
        let bind = |on: &str| BIND.replace("/data", on);
        for (mounts, places) in [
            (vec![PROC, BIND, DEV, SHM], vec![0, 2, 3]),
            (vec![BIND], vec![]),
            // Its mode is its mount point's.
            (vec![PROC, r#"{"destination": "/tmp", "type": "tmpfs"}"#], vec![0]),
            (vec![PROC, DEV, &bind("/dev/log")], vec![0, 1]),
            (vec![PROC, DEV, &bind("/dev/x"), SHM], vec![]),
            (vec![PROC, DEV, &bind("/dev/null")], vec![]),
            (vec![PROC, &bind("/proc/cpuinfo")], vec![]),
            (vec![&bind("/proc"), PROC], vec![]),
            (vec![PROC, r#"{"destination": "/proc", "options": ["remount", "ro"]}"#], vec![]),
            (
                vec![r#"{"destination": "/dev", "type": "tmpfs", "options": ["ro", "mode=755"]}"#],
                vec![],
            ),
            (vec![PROC, PROC], vec![]),
        ] {
            assert_eq!(ahead(&format!("[{}]", mounts.join(","))), places, "{mounts:?}");
        }
    }

    #[test]
    fn a_name_that_begins_alike_is_not_inside() {
        assert!(is_in("/dev/shm", "/dev") && is_in("/dev", "/dev"));
        assert!(!is_in("/device", "/dev") && !is_in("/", "/dev"));
    }
}
