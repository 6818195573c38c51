//! Small files of the kernel, read up to a limit.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// The most that is read of any file.
const LIMIT: u64 = 256 << 10;

/// The beginning of a file, as far as it is text.
pub(crate) fn text(path: impl AsRef<Path>) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file with one line.
pub(crate) fn line(path: impl AsRef<Path>) -> Option<String> {
    text(path).map(|text| text.trim().to_owned())
}

/// The first `most` names in a directory, sorted.
pub(crate) fn names(path: impl AsRef<Path>, most: usize) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().take(most);
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The fields of a line of /proc/self/mountinfo that matter here (proc_pid_mountinfo(5)).
#[derive(Debug)]
pub(crate) struct Mount {
    /// Where.
    pub(crate) point: PathBuf,
    /// The type of the file system.
    pub(crate) kind: String,
}

/// All mounts.
pub(crate) fn mounts() -> Vec<Mount> {
    text("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (own, rest) = line.split_once(" - ")?;
    let (point, kind) = (own.split(' ').nth(4)?, rest.split(' ').next()?);
    Some(Mount { point: point.into(), kind: kind.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - cgroup cgroup rw,memory";
        let mount = mount(line).unwrap();
        assert_eq!((mount.point.to_str(), mount.kind.as_str()), (Some("/mnt2"), "cgroup"));
        assert!(super::mount("36 35 98:0 /mnt1").is_none());
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        assert!(text("/no/such/file").is_none() && names("/no/such/directory", 9).is_empty());
        assert_eq!(names("/proc/self", 3).len(), 3);
    }
}
