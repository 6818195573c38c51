//! `mounts` of the specification: what each of them is to be, found out before a process exists.

use std::{
    ffi::CString,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use rustix::mount::MountFlags;

use super::{
    ahead::Ahead,
    cgroup::Group,
    idmap,
    options::{Bind, Options},
};
use crate::{error::Error, idmap::Maps, path, spec};

/// The mounts of a container.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(super) mounts: Vec<Mount>,
    /// What a mount of type `cgroup` shows; empty where there are no control groups.
    pub(super) groups: Vec<Group>,
    /// The container has a cgroup namespace.
    pub(super) cgroup_namespace: bool,
    /// Others use the mount namespace: magic links of the image could lead to their mounts.
    pub(super) shared: bool,
}

#[derive(Debug)]
pub(super) struct Mount {
    /// Its place in the specification.
    pub(super) number: usize,
    pub(super) destination: String,
    pub(super) kind: Kind,
    pub(super) options: Options,
    pub(super) data: CString,
    /// It lies in an empty file system that was mounted before it, where its mount point cannot be yet.
    pub(super) in_fresh: bool,
    maps: Maps,
    /// Its tree, for one whose owners are mapped: only its maker may open that.
    pub(super) mapped: Option<RawFd>,
    pub(super) ahead: Ahead,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Bind {
        source: String,
        recursive: bool,
    },
    /// What is mounted there is changed: `bind`: only the mount, not its file system.
    Remount {
        bind: bool,
    },
    /// `type` from `source`. `plain`: no link may be on the way to the mount point.
    New {
        kind: String,
        source: String,
        plain: bool,
    },
    /// The container's control groups.
    Cgroup,
}

impl Plan {
    /// `bundle`: what relative sources of bind mounts are below. `shared`: the mount namespace is not the container's
    /// alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a mount that cannot be.
    pub(crate) fn new(mounts: &[spec::Mount], bundle: &str, shared: bool) -> Result<Self, Error> {
        let mut mounts: Vec<_> = mounts
            .iter()
            .enumerate()
            .map(|(number, mount)| Mount::new(number, mount, bundle))
            .collect::<Result<_, _>>()?;
        for at in 1..mounts.len() {
            let (before, rest) = mounts.split_at_mut(at);
            if let Some(mount) = rest.first_mut() {
                mount.in_fresh = before.iter().any(|outer| outer.is_fresh_above(mount));
            }
        }
        Ok(Self { mounts, shared, ..Self::default() })
    }

    /// What mounts of type `cgroup` are to show.
    pub(crate) fn show_groups(&mut self, groups: Vec<Group>, namespace: bool) {
        self.groups = groups;
        self.cgroup_namespace = namespace;
    }

    /// Something of the outside is mounted on `destination`.
    pub(crate) fn binds(&self, destination: &str) -> bool {
        self.mounts.iter().any(|mount| {
            mount.destination == destination && matches!(mount.kind, Kind::Bind { .. })
        })
    }

    /// Opens, in the maker's process, the trees of mounts whose owners are mapped: as `own` says, the container's user
    /// namespace, where a mount has no maps of its own. The descriptors are [`Plan::named`] by their numbers.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is nothing to map by; [`Error::System`].
    pub(crate) fn open_mapped(&mut self, own: Option<&Maps>) -> Result<Vec<OwnedFd>, Error> {
        let mut trees = Vec::new();
        for mount in &mut self.mounts {
            let Some(how) = mount.id_mapped() else { continue };
            let Kind::Bind { source, recursive } = &mount.kind else { continue };
            let maps = match own {
                _ if !mount.maps.is_empty() => &mount.maps,
                Some(own) => own,
                None => {
                    return Err(Error::invalid(
                        format!("mounts[{}].uidMappings", mount.number),
                        "[]",
                        "a mount with the option idmap needs them, or a user namespace",
                    ));
                }
            };
            let tree = idmap::open(source, *recursive, how == Bind::Recursive, maps)?;
            mount.mapped = Some(tree.as_raw_fd());
            trees.push(tree);
        }
        Ok(trees)
    }

    /// The descriptors of [`Plan::open_mapped`] and [`Plan::use_tree`].
    pub(crate) fn named(&mut self) -> impl Iterator<Item = &mut RawFd> {
        self.mounts.iter_mut().flat_map(|mount| {
            let tree = match &mut mount.ahead {
                Ahead::Tree(tree) => Some(tree),
                Ahead::Not | Ahead::Within => None,
            };
            mount.mapped.iter_mut().chain(tree)
        })
    }
}

impl Mount {
    fn new(number: usize, mount: &spec::Mount, bundle: &str) -> Result<Self, Error> {
        let wrong = |field: &str, value: &str, why: &'static str| {
            Err(Error::invalid(format!("mounts[{number}].{field}"), value, why))
        };
        let destination = path::clean(&mount.destination);
        if destination == "/" {
            let why = "a path below the root is wanted; the root is mounted already";
            return wrong("destination", &mount.destination, why);
        }
        if path::climbs_out(&mount.destination) {
            return wrong("destination", &mount.destination, "its .. lead out of the root");
        }
        let options = Options::parse(&mount.options);
        let source = mount.source.clone().unwrap_or_default();
        let strings = [&mount.destination, &source, &options.data];
        if let Some(bad) = strings.into_iter().find(|text| text.contains('\0')) {
            return wrong("destination, source or options", bad, "it holds a zero byte");
        }
        let bind = options.bind.or((mount.kind.as_deref() == Some("bind")).then_some(Bind::One));
        let kind = match (bind, mount.kind.as_deref()) {
            (bind, _) if options.remount => Kind::Remount { bind: bind.is_some() },
            (Some(_), _) if source.is_empty() => {
                return wrong("source", "", "a bind mount needs one");
            }
            (Some(bind), _) => {
                let source =
                    if source.starts_with('/') { source } else { format!("{bundle}/{source}") };
                Kind::Bind { source, recursive: bind == Bind::Recursive }
            }
            (None, Some("cgroup" | "cgroup2")) => Kind::Cgroup,
            (None, Some(kind)) if !kind.is_empty() => {
                Kind::New { kind: kind.to_owned(), source, plain: matches!(kind, "proc" | "sysfs") }
            }
            (None, _) => return wrong("type", "", "a type, or the option bind, is wanted"),
        };
        if options.copy_up && !matches!(&kind, Kind::New { kind, .. } if kind == "tmpfs") {
            return wrong("options", "tmpcopyup", "it is an option of a tmpfs");
        }
        let maps = Maps::new(&mount.uid_mappings, &mount.gid_mappings, &|list| {
            format!("mounts[{number}].{list}Mappings")
        })?;
        let maps_owners = options.id_mapped.is_some() || !maps.is_empty();
        if maps_owners && !matches!(kind, Kind::Bind { .. }) {
            return wrong("options", "idmap", "only bind mounts can have mapped owners");
        }
        let text = if kind == Kind::Cgroup { "" } else { options.data.as_str() };
        let data = CString::new(text).unwrap_or_default();
        Ok(Self {
            number,
            destination,
            kind,
            options,
            data,
            in_fresh: false,
            maps,
            mapped: None,
            ahead: Ahead::Not,
        })
    }

    /// Its owners are mapped, of one mount or of the tree.
    fn id_mapped(&self) -> Option<Bind> {
        self.options.id_mapped.or((!self.maps.is_empty()).then_some(Bind::One))
    }

    fn is_fresh_above(&self, inner: &Mount) -> bool {
        matches!(&self.kind, Kind::New { kind, .. } if kind == "tmpfs")
            && inner
                .destination
                .strip_prefix(&self.destination)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Device nodes are made in it before it becomes read-only.
    pub(super) fn is_late_read_only(&self) -> bool {
        self.destination == "/dev"
            && matches!(self.kind, Kind::New { .. })
            && self.options.flags.mount().contains(MountFlags::RDONLY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Plan, Error> {
        Plan::new(&[serde_json::from_str(json).unwrap()], "/bundle", false)
    }

    #[test]
    fn mounts_are_told_apart() {
        let bind =
            plan(r#"{"destination": "/data/", "source": "/srv", "options": ["rbind", "ro"]}"#)
                .unwrap();
        assert!(bind.binds("/data"));
        let recursive = Kind::Bind { source: "/srv".into(), recursive: true };
        assert_eq!(bind.mounts[0].kind, recursive);
        let below = plan(r#"{"destination": "a", "source": "b", "type": "bind"}"#).unwrap();
        assert_eq!(below.mounts[0].destination, "/a");
        let one = Kind::Bind { source: "/bundle/b".into(), recursive: false };
        assert_eq!(below.mounts[0].kind, one);
        let proc = plan(r#"{"destination": "/proc", "type": "proc", "source": "proc"}"#).unwrap();
        assert!(matches!(&proc.mounts[0].kind, Kind::New { plain: true, .. }));
        let remount = plan(r#"{"destination": "/proc", "options": ["remount", "bind"]}"#).unwrap();
        assert_eq!(remount.mounts[0].kind, Kind::Remount { bind: true });
        let cgroup = plan(
            r#"{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "x", "options": ["ro", "xattr"]}"#,
        )
        .unwrap();
        assert_eq!(cgroup.mounts[0].kind, Kind::Cgroup);
        assert!(cgroup.mounts[0].data.is_empty());
    }

    #[test]
    fn what_cannot_be_mounted_is_refused_by_its_field() {
        for (json, field) in [
            (r#"{"destination": "/..", "type": "tmpfs"}"#, "destination"),
            (r#"{"destination": "/a/../../b", "type": "tmpfs"}"#, "destination"),
            (r#"{"destination": "/", "type": "tmpfs"}"#, "destination"),
            (r#"{"destination": "/a"}"#, "type"),
            (r#"{"destination": "/a", "options": ["bind"]}"#, "source"),
            (r#"{"destination": "/a\u0000", "type": "tmpfs"}"#, "destination"),
            (r#"{"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}"#, "options"),
            (r#"{"destination": "/a", "type": "tmpfs", "options": ["idmap"]}"#, "options"),
            (
                r#"{"destination": "/a", "source": "/b", "options": ["bind"],
                    "uidMappings": [{"containerID": 0, "hostID": 1, "size": 0}]}"#,
                "uidMappings[0].size",
            ),
        ] {
            let error = plan(json).unwrap_err().to_string();
            assert!(error.starts_with(&format!("mounts[0].{field}")), "{json}: {error}");
        }
    }
}
