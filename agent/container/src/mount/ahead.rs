//! Mounts that are alike whatever root they are in: file systems of the kernel and of memory. They can be made before the
//! root is there, on a stage, and are moved into place as trees.

use std::{
    collections::BTreeSet,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use rustix::{
    fs::{Access, CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::MoveMountFlags,
};

use super::{
    make::open_tree,
    node,
    options::Options,
    plan::{Kind, Mount, Plan},
};
use crate::{
    error::{Error, at},
    path::{self, PointKind},
    spec::Device,
};

const DEV: &str = "/dev";

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

/// A mount that can be made ahead, with those below it and with all that is made or hidden in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The outermost one, and those below it in the order of their destinations.
    mounts: Vec<Look>,
    /// Device nodes beyond the default ones, of a `/dev` in which nodes are made.
    nodes: Option<Vec<Device>>,
    read_only: BTreeSet<String>,
    masked: BTreeSet<String>,
    /// Those of them that this kernel does not have, where nothing is hidden.
    absent: BTreeSet<String>,
}

/// All of a mount that goes into its making.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    destination: String,
    kind: Kind,
    options: Options,
}

/// What a container's specification has besides mounts that goes into trees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contents<'a> {
    pub(crate) devices: &'a [Device],
    pub(crate) read_only: &'a [String],
    pub(crate) masked: &'a [String],
    /// Its control group is there before its mounts.
    pub(crate) group: bool,
}

impl Plan {
    /// The trees that can be made ahead, each with the places of its mounts; none when something else could make a
    /// difference to them.
    pub(crate) fn trees(&self, contents: &Contents<'_>) -> Vec<(Vec<usize>, Tree)> {
        let ahead: Vec<_> =
            self.mounts.iter().filter(|mount| mount.is_alike_everywhere(contents.group)).collect();
        let alone = |mount: &&Mount| !ahead.iter().any(|other| mount.is_below(other));
        let outer = ahead.iter().copied().filter(alone);
        let mut trees: Vec<_> = outer
            .map(|outer| {
                let mut mounts: Vec<_> = vec![outer];
                mounts.extend(ahead.iter().copied().filter(|mount| mount.is_below(outer)));
                mounts.sort_by(|one, other| one.destination.cmp(&other.destination));
                mounts
            })
            .map(|mounts| {
                let places = mounts.iter().map(|mount| mount.number).collect::<Vec<_>>();
                (places, Tree::of(&mounts, contents.devices))
            })
            .collect();
        // The null device is what files are hidden with.
        if trees.iter().any(|(_, tree)| tree.nodes.is_some()) {
            trees.iter_mut().for_each(|(_, tree)| tree.hide(contents));
        }
        let orderly = || {
            ahead.iter().all(|one| {
                ahead.iter().all(|other| {
                    one.number == other.number
                        || one.destination != other.destination
                            && (!one.is_below(other) || one.number > other.number)
                })
            })
        };
        let left_alone = || {
            let others = self
                .mounts
                .iter()
                .filter(|mount| !ahead.iter().any(|other| other.number == mount.number));
            others.into_iter().all(|mount| {
                !mount.is_late_read_only()
                    && !matches!(mount.kind, Kind::Remount { .. })
                    && trees.iter().all(|(places, tree)| tree.is_left_alone(mount, places))
            })
        };
        let fine =
            orderly() && left_alone() && !ahead.iter().any(|mount| mount.is_late_read_only());
        if fine { trees } else { Vec::new() }
    }

    /// Leaves only the mounts at these places.
    pub(crate) fn keep(&mut self, places: &[usize]) {
        self.mounts.retain(|mount| places.contains(&mount.number));
    }

    /// The mounts at these places are in this tree.
    pub(crate) fn use_tree(&mut self, places: &[usize], tree: RawFd) {
        for (index, place) in places.iter().enumerate() {
            if let Some(mount) = self.mounts.get_mut(*place) {
                mount.ahead = if index == 0 { Ahead::Tree(tree) } else { Ahead::Within };
            }
        }
    }
}

impl Tree {
    /// `mounts`: the outermost one first.
    fn of(mounts: &[&Mount], devices: &[Device]) -> Self {
        let looks = mounts.iter().map(|mount| Look {
            destination: mount.destination.clone(),
            kind: mount.kind.clone(),
            options: mount.options.of_new(),
        });
        let is_dev = mounts.first().is_some_and(|outer| outer.destination == DEV);
        let inside = devices.iter().all(|device| {
            let path = path::clean(&device.path);
            path != DEV && is_in(&path, DEV)
        });
        Self {
            mounts: looks.collect(),
            nodes: (is_dev && inside).then(|| devices.to_vec()),
            read_only: BTreeSet::new(),
            masked: BTreeSet::new(),
            absent: BTreeSet::new(),
        }
    }

    /// Takes those of the paths that are in it to hide.
    fn hide(&mut self, contents: &Contents<'_>) {
        let [read_only, masked] = [contents.read_only, contents.masked].map(|paths| {
            paths.iter().filter(|path| self.can_hide(path)).cloned().collect::<BTreeSet<_>>()
        });
        (self.read_only, self.masked) = (read_only, masked);
    }

    /// It is in a file system of the kernel, and neither its root nor in another one.
    fn can_hide(&self, path: &str) -> bool {
        let Some((outer, inner)) = self.mounts.split_first() else { return false };
        let path = path::clean(path);
        matches!(outer.kind, Kind::New { plain: true, .. })
            && path != outer.destination
            && is_in(&path, &outer.destination)
            && !inner.iter().any(|mount| is_in(&path, &mount.destination))
    }

    /// Nothing of it depends on a mount that is made when it is in place. `places`: those of its mounts.
    fn is_left_alone(&self, mount: &Mount, places: &[usize]) -> bool {
        let Some((outer, inner)) = self.mounts.split_first() else { return true };
        let after = places.first().is_some_and(|outer| *outer < mount.number);
        if !mount.is_in(&outer.destination) {
            return !after || !is_in(&outer.destination, &mount.destination);
        }
        let (own, to) = (&mount.destination, |path: &str| are_apart(path, &mount.destination));
        let later = |place: &usize| *place < mount.number;
        after
            && own != &outer.destination
            && inner
                .iter()
                .zip(places.iter().skip(1))
                .all(|(inner, place)| later(place) || to(&inner.destination))
            && self.hidden().all(|path| to(&path::clean(path)))
            && self.nodes.iter().all(|nodes| node::paths(nodes).all(|path| to(&path)))
    }

    /// Where it goes.
    pub(crate) fn destination(&self) -> &str {
        self.mounts.first().map_or("", |outer| &outer.destination)
    }

    /// The nodes that are made in it.
    pub(crate) fn nodes(&self) -> Option<&[Device]> {
        self.nodes.as_deref()
    }

    /// Paths in it that are read-only.
    pub(crate) fn read_only(&self) -> &BTreeSet<String> {
        &self.read_only
    }

    /// Paths in it that are masked.
    pub(crate) fn masked(&self) -> &BTreeSet<String> {
        &self.masked
    }

    /// All paths in it that are hidden in either way.
    pub(crate) fn hidden(&self) -> impl Iterator<Item = &String> {
        self.read_only.iter().chain(&self.masked).filter(|path| !self.absent.contains(*path))
    }

    /// Looks which paths are there at all, on the stage, which is this process's root.
    #[must_use]
    pub(crate) fn without_absent(&self) -> Self {
        let is_absent = |path: &&String| {
            let looked = rustix::fs::access(path.as_str(), Access::EXISTS);
            matches!(looked, Err(Errno::NOENT | Errno::NOTDIR))
        };
        let absent = self.hidden().filter(is_absent).cloned().collect();
        Self { absent, ..self.clone() }
    }

    /// It is made in the same way.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let own = (&self.mounts, &self.nodes, &self.read_only, &self.masked);
        own == (&other.mounts, &other.nodes, &other.read_only, &other.masked)
    }

    /// It can stand for `wanted`, where more may be hidden: that is done later, and nothing of it may lie over or under what is
    /// hidden here.
    pub(crate) fn serves(&self, wanted: &Self, contents: &Contents<'_>) -> bool {
        let more = |paths: &[String], here: &BTreeSet<String>| {
            let rest =
                paths.iter().filter(|path| !here.contains(*path)).map(|path| path::clean(path));
            rest.into_iter()
                .all(|path| self.hidden().all(|hidden| are_apart(&path, &path::clean(hidden))))
        };
        let is_wanted = |here: &BTreeSet<String>, wanted: &BTreeSet<String>| {
            here.difference(wanted).all(|path| self.absent.contains(path))
        };
        self.mounts == wanted.mounts
            && self.nodes == wanted.nodes
            && is_wanted(&self.read_only, &wanted.read_only)
            && is_wanted(&self.masked, &wanted.masked)
            && more(contents.read_only, &self.read_only)
            && more(contents.masked, &self.masked)
    }

    /// Takes it off the stage, which is this process's root and on which it has been made.
    pub(crate) fn lift(&self) -> Result<OwnedFd, Error> {
        let path = self.destination();
        open_tree(path, true).map_err(at("take", path))
    }
}

impl Mount {
    /// Nothing of it comes from the root that it is mounted in or from the outside. `group`: nor does its control group.
    fn is_alike_everywhere(&self, group: bool) -> bool {
        match &self.kind {
            Kind::New { kind, .. } if kind == "tmpfs" => {
                // Without a mode it takes that of its mount point.
                let has_mode = self.options.data.split(',').any(|word| word.starts_with("mode="));
                !self.options.copy_up && (has_mode || self.in_fresh)
            }
            Kind::New { kind, .. } => {
                matches!(kind.as_str(), "proc" | "sysfs" | "devpts" | "mqueue")
            }
            Kind::Cgroup => group,
            Kind::Bind { .. } | Kind::Remount { .. } => false,
        }
    }

    fn is_in(&self, directory: &str) -> bool {
        is_in(&self.destination, directory)
    }

    fn is_below(&self, other: &Self) -> bool {
        self.destination != other.destination && self.is_in(&other.destination)
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

/// Neither of two clean paths is the other or below it.
fn are_apart(one: &str, other: &str) -> bool {
    !is_in(one, other) && !is_in(other, one)
}

/// `path` is `directory` or below it; both are clean.
fn is_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The trees of mounts: their places, and what is hidden in them.
    fn trees(mounts: &[&str], hidden: [&[&str]; 2]) -> Vec<(Vec<usize>, Vec<String>)> {
        let json = format!("[{}]", mounts.join(","));
        let plan = Plan::new(&serde_json::from_str::<Vec<_>>(&json).unwrap(), "/b", false).unwrap();
        let [read_only, masked] = hidden.map(|list| list.iter().map(|&path| path.into()).collect());
        let (read_only, masked): (Vec<String>, Vec<String>) = (read_only, masked);
        let contents =
            Contents { devices: &[], read_only: &read_only, masked: &masked, group: true };
        let trees = plan.trees(&contents).into_iter();
        trees.map(|(places, tree)| (places, tree.hidden().cloned().collect())).collect()
    }

    const PROC: &str = r#"{"destination": "/proc", "type": "proc", "source": "proc"}"#;
    const DEV: &str =
        r#"{"destination": "/dev", "type": "tmpfs", "options": ["mode=755", "nosuid"]}"#;
    const SHM: &str = r#"{"destination": "/dev/shm", "type": "tmpfs"}"#;
    const SYS: &str = r#"{"destination": "/sys", "type": "sysfs"}"#;
    const CGROUP: &str = r#"{"destination": "/sys/fs/cgroup", "type": "cgroup"}"#;

    fn bind(on: &str) -> String {
        format!(r#"{{"destination": "{on}", "source": "/srv", "options": ["bind"]}}"#)
    }

    #[test]
    fn what_is_alike_in_every_root_is_made_ahead() {
        let places = |mounts: &[&str]| -> Vec<_> {
            trees(mounts, [&[], &[]]).into_iter().map(|(places, _)| places).collect()
        };
        let data = bind("/data");
        assert_eq!(places(&[PROC, &data, DEV, SHM]), [vec![0], vec![2, 3]]);
        assert_eq!(places(&[SYS, CGROUP, PROC]), [vec![0, 1], vec![2]]);
        assert!(places(&[&data]).is_empty());
        // Its mode is its mount point's.
        let tmp = r#"{"destination": "/tmp", "type": "tmpfs"}"#;
        assert_eq!(places(&[PROC, tmp]), [[0]]);
        // Something else is in the tree, beside what is made ahead.
        assert_eq!(places(&[PROC, DEV, &bind("/dev/log")]), [[0], [1]]);
        assert_eq!(places(&[PROC, DEV, &bind("/dev/x"), SHM]), [vec![0], vec![1, 3]]);
        assert_eq!(places(&[PROC, &bind("/proc/cpuinfo")]), [[0]]);
        assert_eq!(places(&[DEV, SHM, &bind("/dev/shm")]), [[0, 1]]);
        for other in [
            vec![PROC, DEV, &bind("/dev/null")],
            vec![PROC, DEV, &bind("/dev/ptmx")],
            vec![DEV, &bind("/dev/shm"), SHM],
            vec![DEV, &bind("/dev/shm/x"), SHM],
            vec![DEV, &bind("/dev")],
            vec![&bind("/proc"), PROC],
            vec![&bind("/proc/x"), PROC],
            vec![SHM, DEV],
            vec![CGROUP, SYS],
            vec![PROC, r#"{"destination": "/proc", "options": ["remount", "ro"]}"#],
            vec![r#"{"destination": "/dev", "type": "tmpfs", "options": ["ro", "mode=755"]}"#],
            vec![PROC, PROC],
            vec![&PROC.replace("/proc\"", "/x/proc\""), &bind("/x")],
        ] {
            assert!(places(&other).is_empty(), "{other:?}");
        }
    }

    #[test]
    fn what_is_hidden_in_file_systems_of_the_kernel_is_so_ahead() {
        let hidden = |mounts: &[&str], read_only: &[&str], masked: &[&str]| {
            trees(mounts, [read_only, masked]).into_iter().map(|(_, hidden)| hidden).collect()
        };
        let all: Vec<Vec<_>> = hidden(&[PROC, DEV], &["/proc/sys"], &["/proc/kcore", "/data"]);
        assert_eq!(all, [vec!["/proc/sys".to_owned(), "/proc/kcore".to_owned()], vec![]]);
        // There is no null device as yet.
        let none: Vec<Vec<String>> = hidden(&[PROC], &["/proc/sys"], &["/proc/kcore"]);
        assert!(none.concat().is_empty());
        let rest: Vec<Vec<String>> = hidden(
            &[SYS, CGROUP, DEV, PROC],
            &["/proc", "/sys/../data"],
            &["/sys/fs/cgroup/x", "/dev/x"],
        );
        assert!(rest.len() == 3 && rest.concat().is_empty(), "{rest:?}");
        // What is mounted over or in what is hidden, or the other way round.
        for on in ["/proc/sys", "/proc/sys/net", "/proc/bus"] {
            let all: Vec<Vec<String>> =
                hidden(&[PROC, DEV, &bind(on)], &["/proc/sys", "/proc/bus/x"], &[]);
            assert!(all.is_empty(), "{on}");
        }
    }

    #[test]
    fn what_a_kernel_does_not_have_need_not_be_hidden() {
        let plan = |json: &str| {
            Plan::new(&serde_json::from_str::<Vec<_>>(json).unwrap(), "/b", false).unwrap()
        };
        let plan = plan(&format!("[{PROC},{DEV}]"));
        let tree = |masked: &[String]| {
            let contents = Contents { devices: &[], read_only: &[], masked, group: true };
            plan.trees(&contents).swap_remove(0).1
        };
        let contents = Contents { devices: &[], read_only: &[], masked: &[], group: true };
        let made = tree(&["/proc/no-such".to_owned(), "/proc/self".to_owned()]);
        assert!(!made.serves(&tree(&[]), &contents));
        let looked = made.without_absent();
        assert_eq!(looked.hidden().collect::<Vec<_>>(), ["/proc/self"]);
        assert!(!looked.serves(&tree(&[]), &contents) && looked.is_like(&made));
        let wanted = ["/proc/self".to_owned()];
        let contents = Contents { masked: &wanted, ..contents };
        assert!(looked.serves(&tree(&wanted), &contents));
        assert!(!made.serves(&tree(&wanted), &contents));
    }

    #[test]
    fn a_name_that_begins_alike_is_not_inside() {
        assert!(is_in("/dev/shm", "/dev") && is_in("/dev", "/dev"));
        assert!(!is_in("/device", "/dev") && !is_in("/", "/dev"));
        assert!(are_apart("/dev/a", "/dev/b") && !are_apart("/dev", "/dev/b"));
    }
}
