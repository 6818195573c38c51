//! The making of mounts, by the container's first process: sources are opened while the old root is there, everything
//! else happens inside.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags},
};

use super::{
    ahead::Ahead,
    cgroup, copy_up,
    plan::{Kind, Mount, Plan},
};
use crate::{
    error::{Error, at},
    path::{self, PointKind},
    sys::{self, MountAttr},
};

/// What mounts come from, one for each: trees, detached from where they were.
#[derive(Debug)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Debug)]
enum Source {
    None,
    Tree(OwnedFd),
    Groups(Vec<cgroup::Opened>),
}

impl Plan {
    /// Opens what the mounts come from while the old root is still there.
    pub(crate) fn open(&self) -> Result<Sources, Error> {
        self.mounts.iter().map(|mount| mount.open(self)).collect::<Result<_, _>>().map(Sources)
    }

    /// Makes the mounts; the process's root is the container's.
    pub(crate) fn make(&self, sources: Sources) -> Result<(), Error> {
        self.mounts.iter().zip(sources.0).try_for_each(|(mount, source)| mount.make(source, self))
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
    fn open(&self, plan: &Plan) -> Result<Source, Error> {
        let (source, recursive) = match &self.kind {
            _ if self.ahead != Ahead::Not => return Ok(Source::None),
            Kind::Bind { source, recursive } => (source, *recursive),
            Kind::Cgroup => return cgroup::open(plan).map(Source::Groups),
            _ => return Ok(Source::None),
        };
        let tree = match self.mapped {
            // SAFETY: the maker opened it for this mount; nobody else in this process knows of it.
            Some(number) => unsafe { OwnedFd::from_raw_fd(number) },
            None => open_tree(source, recursive)
                .map_err(at("open", format_args!("mounts[{}].source {source:?}", self.number)))?,
        };
        for (attr, recursive) in
            [(self.options.attributes(), false), (self.options.recursive, true)]
        {
            if let Some(attr) = attr {
                sys::mount_setattr(tree.as_fd(), c"", recursive, &attr).map_err(at(
                    "set the options of",
                    format_args!("mounts[{}].source {source:?}", self.number),
                ))?;
            }
        }
        Ok(Source::Tree(tree))
    }

    fn make(&self, source: Source, plan: &Plan) -> Result<(), Error> {
        let on = &self.destination;
        match self.ahead {
            Ahead::Not => {}
            Ahead::Tree(tree) => return self.move_in(tree),
            Ahead::Within => return Ok(()),
        }
        let tree = match (&self.kind, source) {
            (Kind::Bind { source, .. }, Source::Tree(tree)) => {
                self.attach(&tree, plan).map_err(at("mount", format_args!("{source} on {on}")))?;
                Some(tree)
            }
            (Kind::New { kind, source, plain }, _) => {
                self.create(kind, source, *plain, plan.shared)
                    .map_err(at("mount", format_args!("{kind} on {on}")))?;
                None
            }
            (Kind::Cgroup, Source::Groups(groups)) => {
                cgroup::make(self, groups, plan)?;
                None
            }
            (Kind::Remount { bind }, _) => {
                let mut flags = self.options.flags.mount();
                flags.set(MountFlags::BIND, *bind);
                rustix::mount::mount_remount(on, flags, &self.data).map_err(at("remount", on))?;
                None
            }
            _ => None,
        };
        self.propagate(tree.as_ref().map(AsFd::as_fd))
    }

    /// By the tree where there is one: no path has to be followed then.
    fn propagate(&self, tree: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        for flags in &self.options.propagation {
            let found;
            let mount = match tree {
                Some(tree) => tree,
                None => {
                    found = path::open(&self.destination, OFlags::PATH)
                        .map_err(at("open", &self.destination))?;
                    found.as_fd()
                }
            };
            let recursive = flags.contains(MountPropagationFlags::REC);
            let propagation = u64::from((*flags - MountPropagationFlags::REC).bits());
            let attr = MountAttr { propagation, ..MountAttr::default() };
            sys::mount_setattr(mount, c"", recursive, &attr)
                .map_err(at("set the propagation of", &self.destination))?;
        }
        Ok(())
    }

    fn attach(&self, tree: &OwnedFd, plan: &Plan) -> Result<(), Errno> {
        let attach = || attach(tree, &self.destination, plan.shared);
        match attach() {
            Err(Errno::NOENT) => {
                path::make(&self.destination, kind_of(tree)?)?;
                attach()
            }
            attached => attached,
        }
    }

    /// `plain`: no link may be on the way to the mount point; `careful`: no magic link.
    fn create(&self, kind: &str, source: &str, plain: bool, careful: bool) -> Result<(), Errno> {
        let mut flags = self.options.flags.mount();
        if self.is_late_read_only() {
            flags -= MountFlags::RDONLY;
        }
        if self.in_fresh {
            self.make_in_fresh(careful)?;
        }
        let create = || {
            let covered = self.options.copy_up.then(|| self.covered()).transpose()?;
            let data = if kind == "tmpfs" { self.tmpfs_data()? } else { self.data.clone() };
            if plain || careful {
                self.enter_point(plain)?;
                rustix::mount::mount(source, ".", kind, flags, &*data)?;
            } else {
                rustix::mount::mount(source, &self.destination, kind, flags, &*data)?;
            }
            match covered {
                Some(covered) => copy_up::copy(covered.as_fd(), self.covered()?.as_fd()),
                None => Ok(()),
            }
        };
        match create() {
            Err(Errno::NOENT) => {
                path::make(&self.destination, PointKind::Directory)?;
                create()
            }
            created => created,
        }
    }

    /// Makes the mount point in a file system that has just been mounted around it, and so is where the same path leads.
    fn make_in_fresh(&self, careful: bool) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(0o755);
        if !careful && rustix::fs::mkdir(&self.destination, mode).is_ok() {
            return Ok(());
        }
        path::make(&self.destination, PointKind::Directory)
    }

    fn covered(&self) -> Result<OwnedFd, Errno> {
        path::open(&self.destination, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Goes where it is to be mounted. `no_links`: none may be on the way: one in the place of `/proc` would put what the
    /// engine hides there in plain sight elsewhere.
    fn enter_point(&self, no_links: bool) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve =
            if no_links { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::NO_MAGICLINKS };
        let on = rustix::fs::openat2(CWD, &self.destination, flags, Mode::empty(), resolve)?;
        rustix::process::fchdir(&on)
    }

    /// A tmpfs without a mode gets that of the directory under it, as with runc.
    fn tmpfs_data(&self) -> Result<std::ffi::CString, Errno> {
        let text = self.options.data.as_str();
        if text.split(',').any(|word| word.starts_with("mode=")) {
            return Ok(self.data.clone());
        }
        let stat = rustix::fs::stat(&self.destination)?;
        let comma = if text.is_empty() { "" } else { "," };
        let data = format!("{text}{comma}mode={:o}", stat.st_mode & 0o7777);
        std::ffi::CString::new(data).map_err(|_| Errno::INVAL)
    }
}

/// A copy of the mount at `source`, attached nowhere.
pub(super) fn open_tree(source: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, source, flags)
}

/// Attaches a tree; `careful`: no magic link is followed to where it goes.
pub(super) fn attach(tree: &OwnedFd, on: &str, careful: bool) -> Result<(), Errno> {
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if careful {
        let point = path::open(on, OFlags::PATH)?;
        let flags = from | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        return rustix::mount::move_mount(tree, "", &point, "", flags);
    }
    let flags = from | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(tree, "", CWD, on, flags)
}

/// What a mount point for this tree must be.
pub(super) fn kind_of(tree: &OwnedFd) -> Result<PointKind, Errno> {
    let stat = rustix::fs::statx(tree, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::Directory => PointKind::Directory,
        _ => PointKind::File,
    })
}
