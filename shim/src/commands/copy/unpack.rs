//! A tar archive into a directory of a tree. Nothing in the archive is trusted: its paths lead nowhere but into the tree.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
        futimens, linkat, mkdirat, mknodat, openat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use tar::{Archive, Entry, EntryType};

use super::{
    Owners,
    tree::{Kind, Tree, inside, kind, stat},
};

/// Unpacks an archive below `to`. With `top`, the archive's top is called so instead. Returns how many devices and odd entries were left out.
pub(super) fn unpack(
    tree: &Tree,
    to: &Path,
    top: Option<&Path>,
    owners: Owners,
    from: impl Read,
) -> io::Result<u64> {
    let mut left_out = 0;
    // Directories get their modes and times when nothing is put into them any more.
    let mut directories = Vec::new();
    for entry in Archive::new(from).entries()? {
        let mut entry = entry?;
        let Some(path) = place(&entry.path()?, top) else {
            left_out += 1;
            continue;
        };
        let at =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        if path.as_os_str().is_empty() {
            // The destination itself stays as it is.
            continue;
        }
        let full = to.join(&path);
        let done = match entry.header().entry_type() {
            EntryType::Directory => directory(tree, &full).map(|()| {
                directories.push((full.clone(), attributes(&entry, owners)));
            }),
            EntryType::Regular | EntryType::Continuous => file(tree, &full, &mut entry, owners),
            EntryType::Symlink => link(tree, &full, &entry, owners),
            EntryType::Link => hard_link(tree, &full, &entry, to, top),
            EntryType::Fifo => fifo(tree, &full, &entry, owners),
            _ => {
                left_out += 1;
                Ok(())
            }
        };
        done.map_err(at)?;
    }
    for (path, attributes) in directories.into_iter().rev() {
        let (parent, name) = tree.parent(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A later entry may have put something else in its place.
        if let Ok(directory) = openat(&parent, name, flags, Mode::empty()) {
            attributes.apply(&directory)?;
        }
    }
    Ok(left_out)
}

/// Where an archive's path goes.
fn place(path: &Path, top: Option<&Path>) -> Option<PathBuf> {
    let path = inside(path)?;
    let Some(top) = top else { return Some(path) };
    let mut components = path.components();
    components.next();
    let rest = components.as_path();
    Some(if rest.as_os_str().is_empty() { top.to_owned() } else { top.join(rest) })
}

#[derive(Debug, Clone)]
struct Attributes {
    mode: Mode,
    uid: Uid,
    gid: Gid,
    times: Timestamps,
}

fn attributes(entry: &Entry<'_, impl Read>, owners: Owners) -> Attributes {
    let header = entry.header();
    let number =
        |value: io::Result<u64>| value.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
    let (uid, gid) = owners.of(number(header.uid()), number(header.gid()));
    let seconds = header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Attributes {
        mode: Mode::from_raw_mode(header.mode().unwrap_or(0o644) & 0o7777),
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
        times: Timestamps { last_access: time, last_modification: time },
    }
}

impl Attributes {
    fn apply(&self, file: &OwnedFd) -> io::Result<()> {
        give(fchown(file, Some(self.uid), Some(self.gid)))?;
        fchmod(file, self.mode)?;
        futimens(file, &self.times)?;
        Ok(())
    }

    fn apply_at(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        give(chownat(parent, name, Some(self.uid), Some(self.gid), flags))?;
        utimensat(parent, name, &self.times, flags)?;
        Ok(())
    }
}

/// Only root gives files away; for others they stay their own.
fn give(given: Result<(), Errno>) -> io::Result<()> {
    match given {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        given => Ok(given?),
    }
}

fn directory(tree: &Tree, path: &Path) -> io::Result<()> {
    let (parent, name) = tree.parent(path)?;
    match mkdirat(&parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => match kind(&stat(&parent, name)?) {
            Kind::Directory => Ok(()),
            // A symbolic link to a directory of the container serves as well.
            Kind::Other if tree.kind(path, true)? == Some(Kind::Directory) => Ok(()),
            Kind::Other => Err(Errno::NOTDIR.into()),
        },
        made => Ok(made?),
    }
}

/// Makes room for something that is no directory.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn file(
    tree: &Tree,
    path: &Path,
    entry: &mut Entry<'_, impl Read>,
    owners: Owners,
) -> io::Result<()> {
    let (parent, name) = tree.parent(path)?;
    clear(&parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(entry, &mut file)?;
    attributes(entry, owners).apply(&file.into())
}

fn link(tree: &Tree, path: &Path, entry: &Entry<'_, impl Read>, owners: Owners) -> io::Result<()> {
    let (parent, name) = tree.parent(path)?;
    clear(&parent, name)?;
    let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
    symlinkat(target.as_ref(), &parent, name)?;
    attributes(entry, owners).apply_at(&parent, name)
}

fn hard_link(
    tree: &Tree,
    path: &Path,
    entry: &Entry<'_, impl Read>,
    to: &Path,
    top: Option<&Path>,
) -> io::Result<()> {
    let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
    let target = place(&target, top).ok_or(io::ErrorKind::InvalidData)?;
    let target = to.join(target);
    let (old_parent, old_name) = tree.parent(&target)?;
    let (parent, name) = tree.parent(path)?;
    clear(&parent, name)?;
    Ok(linkat(&old_parent, old_name, &parent, name, AtFlags::empty())?)
}

fn fifo(tree: &Tree, path: &Path, entry: &Entry<'_, impl Read>, owners: Owners) -> io::Result<()> {
    let (parent, name) = tree.parent(path)?;
    clear(&parent, name)?;
    let attributes = attributes(entry, owners);
    mknodat(&parent, name, FileType::Fifo, attributes.mode, 0)?;
    attributes.apply_at(&parent, name)
}
