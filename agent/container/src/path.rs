//! Paths inside a container's root, by a process whose root directory it already is: the kernel cannot leave it, and a
//! link of the image leads at most to another place of the image.

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
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
    if kind == PointKind::Directory && rustix::fs::mkdir(path, DIRECTORY).is_ok() {
        return Ok(());
    }
    let mut left = components(path);
    let mut done = String::new();
    let mut links = 0;
    while let Some(name) = left.pop() {
        let parent = done.len();
        done.push('/');
        done.push_str(&name);
        let last = left.is_empty();
        let made = if last && kind == PointKind::File {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::open(&done, flags, FILE).map(drop)
        } else {
            rustix::fs::mkdir(&done, DIRECTORY)
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let Some(target) = link(&done)? else { continue };
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                done.truncate(if target.starts_with('/') { 0 } else { parent });
                left.append(&mut components(&target));
            }
            Err(errno) => return Err(errno),
        }
        // `..` of a link's target.
        while left.last().is_some_and(|name| name == "..") {
            left.pop();
            done.truncate(done.rfind('/').unwrap_or(0));
        }
    }
    Ok(())
}

/// The target of a symbolic link; `None` for anything else.
fn link(path: &str) -> Result<Option<String>, Errno> {
    let stat = rustix::fs::lstat(path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    let target = rustix::fs::readlinkat(CWD, path, Vec::new())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_paths_have_no_dots() {
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("/proc/", "/proc"),
            ("//a/./b//c", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("a/b/..", "/a"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn names_come_from_the_end() {
        assert_eq!(components("/a//./b/../c"), ["c", "..", "b", "a"]);
    }
}
