//! A directory tree as a root that no path leads out of: a container's root, or this host's.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, statat},
    io::Errno,
};

/// A tree.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// How paths of archives are resolved in it.
    resolve: ResolveFlags,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    Other,
}

impl Tree {
    /// A container's root. Symbolic links in it are followed as its own programs follow them, and never out of it.
    pub(super) fn container(root: OwnedFd) -> Self {
        Self { root, resolve: ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS }
    }

    /// This host's root.
    pub(super) fn host() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty())?;
        Ok(Self::container(root))
    }

    /// The directory at this path of this host, for what a container says goes into it: nothing of that is followed anywhere.
    pub(super) fn destination(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { root, resolve: ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS })
    }

    /// Opens something in it.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        loop {
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), self.resolve) {
                // Something was renamed meanwhile (openat2(2)).
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
    }

    /// Opens the directory that a path's last name is in, and returns that name.
    pub(super) fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p std::ffi::OsStr)> {
        let name = path.file_name().ok_or(Errno::ISDIR)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// What a path leads to, if anything; `follow`: through a symbolic link at its end.
    pub(super) fn kind(&self, path: &Path, follow: bool) -> io::Result<Option<Kind>> {
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        let fd = match self.open(path, flags) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(Some(kind(&rustix::fs::fstat(fd)?)))
    }
}

pub(super) fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::Other,
    }
}

/// What a name in a directory is.
pub(super) fn stat(directory: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Stat> {
    Ok(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// An archive's path without what would lead out of where it is put; `None` if that is not possible.
pub(super) fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn no_path_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let root = dir.path().join("root");
        fs::write(dir.path().join("secret"), "x").unwrap();
        fs::write(root.join("own"), "y").unwrap();
        symlink("../secret", root.join("up")).unwrap();
        symlink("/own", root.join("absolute")).unwrap();
        symlink("/", root.join("top")).unwrap();
        let fd = || OwnedFd::from(fs::File::open(&root).unwrap());
        let tree = Tree::container(fd());
        assert_eq!(tree.kind(Path::new("/absolute"), true).unwrap(), Some(Kind::Other));
        assert_eq!(tree.kind(Path::new("top/top/own"), true).unwrap(), Some(Kind::Other));
        assert_eq!(tree.kind(Path::new("/up"), true).unwrap(), None);
        assert_eq!(tree.kind(Path::new("../../secret"), true).unwrap(), None);
        let strict = Tree::destination(&root).unwrap();
        for bad in ["top/own", "absolute", "up", "../secret"] {
            assert!(strict.open(Path::new(bad), OFlags::RDONLY).is_err(), "{bad}");
        }
        assert_eq!(inside(Path::new("/a/./b")), Some("a/b".into()));
        assert_eq!(inside(Path::new("a/../b")), None);
    }
}
