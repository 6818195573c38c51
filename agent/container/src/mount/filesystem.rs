//! `mounts` of the specification.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags},
};

use super::options::{Bind, Options};
use crate::{
    error::{Error, at},
    path::{self, PointKind},
    spec, sys,
};

/// The mounts of a container.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    mounts: Vec<Mount>,
}

/// Trees that bind mounts come from, detached from where they were; one for each mount that has one.
#[derive(Debug)]
pub(crate) struct Sources(Vec<Option<OwnedFd>>);

#[derive(Debug)]
struct Mount {
    destination: String,
    kind: Kind,
    options: Options,
    data: CString,
    /// It lies in an empty file system that was mounted before it, where its mount point cannot be yet.
    in_fresh: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Bind {
        source: String,
        recursive: bool,
    },
    /// What is mounted there is changed.
    Remount,
    /// `type` from `source`. `plain`: no link may be on the way to the mount point.
    New {
        kind: String,
        source: String,
        plain: bool,
    },
}

impl Plan {
    /// # Errors
    /// [`Error::Invalid`] for a mount that cannot be.
    pub(crate) fn new(mounts: &[spec::Mount]) -> Result<Self, Error> {
        let mut mounts: Vec<_> = mounts.iter().map(Mount::new).collect::<Result<_, _>>()?;
        for at in 1..mounts.len() {
            let (before, rest) = mounts.split_at_mut(at);
            if let Some(mount) = rest.first_mut() {
                mount.in_fresh = before.iter().any(|outer| outer.is_fresh_above(mount));
            }
        }
        Ok(Self { mounts })
    }

    /// Something of the outside is mounted on `destination`.
    pub(crate) fn binds(&self, destination: &str) -> bool {
        self.mounts.iter().any(|mount| {
            mount.destination == destination && matches!(mount.kind, Kind::Bind { .. })
        })
    }

    /// Opens the sources of bind mounts while the old root is still there.
    pub(crate) fn open(&self) -> Result<Sources, Error> {
        self.mounts.iter().map(Mount::open).collect::<Result<_, _>>().map(Sources)
    }

    /// Makes the mounts; the process's root is the container's.
    pub(crate) fn make(&self, sources: Sources) -> Result<(), Error> {
        self.mounts.iter().zip(sources.0).try_for_each(|(mount, source)| mount.make(source))
    }

    /// Makes read-only what had to stay writable while device nodes were made.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        for mount in self.mounts.iter().filter(|mount| mount.is_late_read_only()) {
            let flags = MountFlags::BIND | mount.options.flags.mount();
            rustix::mount::mount_remount(&mount.destination, flags, c"")
                .map_err(at("make read-only", &mount.destination))?;
        }
        Ok(())
    }
}

impl Mount {
    fn new(mount: &spec::Mount) -> Result<Self, Error> {
        let destination = path::clean(&mount.destination);
        if destination == "/" {
            return Err(Error::invalid(
                "mounts.destination",
                &mount.destination,
                "the root is mounted already",
            ));
        }
        let options = Options::parse(&mount.options)?;
        if options.copy_up {
            return Err(Error::invalid(
                "mount option",
                "tmpcopyup",
                "it is not supported; leave it out, or use a volume",
            ));
        }
        let source = mount.source.clone().unwrap_or_default();
        let bind = options.bind.or((mount.kind.as_deref() == Some("bind")).then_some(Bind::One));
        let kind = match (bind, mount.kind.as_deref()) {
            _ if options.remount => Kind::Remount,
            (Some(bind), _) if source.starts_with('/') => {
                Kind::Bind { source, recursive: bind == Bind::Recursive }
            }
            (Some(_), _) => {
                return Err(Error::invalid(
                    "mounts.source of a bind mount",
                    source,
                    "an absolute path is wanted",
                ));
            }
            // Every hierarchy here is of version 2, and shows the container's own part only.
            (None, Some("cgroup")) => {
                Kind::New { kind: "cgroup2".to_owned(), source: "cgroup".to_owned(), plain: false }
            }
            (None, Some(kind)) => {
                Kind::New { kind: kind.to_owned(), source, plain: matches!(kind, "proc" | "sysfs") }
            }
            (None, None) => {
                return Err(Error::invalid(
                    "mounts.type",
                    &mount.destination,
                    "a type, or the option bind, is wanted",
                ));
            }
        };
        let text = if mount.kind.as_deref() == Some("cgroup") { "" } else { options.data.as_str() };
        let data = CString::new(text)
            .map_err(|_| Error::invalid("mount options", &options.data, "they hold a zero byte"))?;
        Ok(Self { destination, kind, options, data, in_fresh: false })
    }

    fn is_fresh_above(&self, inner: &Mount) -> bool {
        matches!(&self.kind, Kind::New { kind, .. } if kind == "tmpfs")
            && inner
                .destination
                .strip_prefix(&self.destination)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    fn is_late_read_only(&self) -> bool {
        self.destination == "/dev"
            && matches!(self.kind, Kind::New { .. })
            && self.options.flags.mount().contains(MountFlags::RDONLY)
    }

    fn open(&self) -> Result<Option<OwnedFd>, Error> {
        let Kind::Bind { source, recursive } = &self.kind else { return Ok(None) };
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if *recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = rustix::mount::open_tree(CWD, source, flags)
            .map_err(at("open the mount source", source))?;
        for (attr, recursive) in
            [(self.options.attributes(), false), (self.options.recursive, true)]
        {
            if let Some(attr) = attr {
                sys::mount_setattr(tree.as_fd(), c"", recursive, &attr)
                    .map_err(at("set the options of mount source", source))?;
            }
        }
        Ok(Some(tree))
    }

    fn make(&self, source: Option<OwnedFd>) -> Result<(), Error> {
        let on = &self.destination;
        let made = match (&self.kind, source) {
            (Kind::Bind { source, .. }, Some(tree)) => {
                self.attach(&tree).map_err(at("mount", format_args!("{source} on {on}")))
            }
            (Kind::New { kind, source, plain }, _) => self
                .create(kind, source, *plain)
                .map_err(at("mount", format_args!("{kind} on {on}"))),
            _ => rustix::mount::mount_remount(on, self.options.flags.mount(), &self.data)
                .map_err(at("remount", on)),
        };
        made?;
        for flags in &self.options.propagation {
            let flags = MountPropagationFlags::from_bits_retain(*flags);
            rustix::mount::mount_change(on, flags).map_err(at("set the propagation of", on))?;
        }
        Ok(())
    }

    fn attach(&self, tree: &OwnedFd) -> Result<(), Errno> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        let attach = || rustix::mount::move_mount(tree, "", CWD, self.destination.as_str(), flags);
        match attach() {
            Err(Errno::NOENT) => {
                let stat = rustix::fs::statx(tree, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
                let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
                    FileType::Directory => PointKind::Directory,
                    _ => PointKind::File,
                };
                path::make(&self.destination, kind)?;
                attach()
            }
            attached => attached,
        }
    }

    fn create(&self, kind: &str, source: &str, plain: bool) -> Result<(), Errno> {
        let mut flags = self.options.flags.mount();
        if self.is_late_read_only() {
            flags -= MountFlags::RDONLY;
        }
        let create = || -> Result<(), Errno> {
            if !plain {
                return rustix::mount::mount(source, &self.destination, kind, flags, &*self.data);
            }
            // A link in the place of /proc would put what the engine hides there in plain sight elsewhere.
            let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::NO_SYMLINKS;
            let on = rustix::fs::openat2(CWD, &self.destination, how, Mode::empty(), resolve)?;
            rustix::process::fchdir(&on)?;
            rustix::mount::mount(source, ".", kind, flags, &*self.data)
        };
        if self.in_fresh {
            path::make(&self.destination, PointKind::Directory)?;
        }
        match create() {
            Err(Errno::NOENT) => {
                path::make(&self.destination, PointKind::Directory)?;
                create()
            }
            created => created,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Plan, Error> {
        Plan::new(&[serde_json::from_str(json).unwrap()])
    }

    #[test]
    fn mounts_are_told_apart() {
        let bind =
            plan(r#"{"destination": "/data/", "source": "/srv", "options": ["rbind", "ro"]}"#)
                .unwrap();
        assert!(bind.binds("/data"));
        let recursive = Kind::Bind { source: "/srv".into(), recursive: true };
        assert_eq!(bind.mounts[0].kind, recursive);
        let proc = plan(r#"{"destination": "/proc", "type": "proc", "source": "proc"}"#).unwrap();
        assert!(matches!(&proc.mounts[0].kind, Kind::New { plain: true, .. }));
        let cgroup = plan(
            r#"{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "x", "options": ["ro", "xattr"]}"#,
        )
        .unwrap();
        assert!(matches!(&cgroup.mounts[0].kind, Kind::New { kind, .. } if kind == "cgroup2"));
        assert!(cgroup.mounts[0].data.is_empty());
    }

    #[test]
    fn what_cannot_be_mounted_is_refused() {
        for json in [
            r#"{"destination": "/..", "type": "tmpfs"}"#,
            r#"{"destination": "/a"}"#,
            r#"{"destination": "/a", "source": "b", "options": ["bind"]}"#,
            r#"{"destination": "/a", "type": "tmpfs", "options": ["tmpcopyup"]}"#,
        ] {
            assert!(matches!(plan(json), Err(Error::Invalid { .. })), "{json}");
        }
    }
}
