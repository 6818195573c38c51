//! Paths inside a container's root, by a process whose root directory it already is: the kernel cannot leave it, and a
//! link of the image leads at most to another place of the image. Magic links (`/proc/PID/root` and its like), which could
//! lead out, are never followed when something is made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const FILE: Mode = Mode::from_raw_mode(0o644);

/// What a mount point must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PointKind {
    Directory,
    File,
}

/// Makes what is missing of an absolute path. Dangling links on the way get their targets made, as runc does.
///
/// # Errors
/// That of the step that failed.
pub(crate) fn make(path: &str, kind: PointKind) -> Result<(), Errno> {
    let mut left = components(path);
    // The directories from the root to where the walk is; none of them was reached through a link.
    let mut walk = vec![open("/", OFlags::PATH | OFlags::DIRECTORY)?];
    let mut links = 0;
    while let Some(name) = left.pop() {
        let Some(parent) = walk.last().map(AsFd::as_fd) else { return Err(Errno::NOENT) };
        if name == ".." {
            if walk.len() > 1 {
                walk.pop();
            }
            continue;
        }
        let last = left.is_empty();
        let made = if last && kind == PointKind::File {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(parent, &name, flags, FILE).map(drop)
        } else {
            rustix::fs::mkdirat(parent, &name, DIRECTORY)
        };
        match made {
            Ok(()) if last => return Ok(()),
            // A read-only file system that has it says so first.
            Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
            Err(errno) => return Err(errno),
        }
        if let Some(target) = link(parent, &name)? {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            if target.starts_with('/') {
                walk.truncate(1);
            }
            left.append(&mut components(&target));
        } else if !last {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            walk.push(rustix::fs::openat(parent, &name, flags, Mode::empty())?);
        }
    }
    Ok(())
}

/// Opens a path, following links of the image, but no magic ones.
pub(crate) fn open(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The working directory is below this process's root (getcwd(2)).
pub(crate) fn is_inside() -> Result<bool, Errno> {
    let path = rustix::process::getcwd(Vec::new())?;
    Ok(path.as_bytes().starts_with(b"/"))
}

/// The target of a symbolic link; `None` for anything else.
fn link(dir: BorrowedFd<'_>, name: &str) -> Result<Option<String>, Errno> {
    let stat = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
    target.into_string().map(Some).map_err(|_| Errno::ILSEQ)
}

/// The names in a path, the first one last.
fn components(path: &str) -> Vec<String> {
    let names = path.split('/').filter(|name| !name.is_empty() && *name != ".");
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.reverse();
    names
}

/// An absolute path without `.`, `..` and doubled slashes (a `..` at the root stays there).
pub(crate) fn clean(path: &str) -> String {
    let mut clean = String::with_capacity(path.len());
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => clean.truncate(clean.rfind('/').unwrap_or(0)),
            name => {
                clean.push('/');
                clean.push_str(name);
            }
        }
    }
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// A path whose `..` go above the root.
pub(crate) fn climbs_out(path: &str) -> bool {
    let mut depth = 0_usize;
    path.split('/').any(|name| {
        match name {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_paths_have_no_dots() {
        for (path, expected, climbs) in [
            ("/", "/", false),
            ("", "/", false),
            ("/proc/", "/proc", false),
            ("//a/./b//c", "/a/b/c", false),
            ("/a/../../b", "/b", true),
            ("/a/../b/c/../..", "/", false),
            ("a/b/..", "/a", false),
        ] {
            assert_eq!((clean(path).as_str(), climbs_out(path)), (expected, climbs), "{path}");
        }
    }

    #[test]
    fn names_come_from_the_end() {
        assert_eq!(components("/a//./b/../c"), ["c", "..", "b", "a"]);
    }
}
