//! What the tests of roots do on this host: mount, attach, look.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Whether an extended attribute is there and one byte long.
pub(crate) fn attribute(path: &Path, name: &str) -> bool {
    rustix::fs::getxattr(path, name, &mut [0; 4]) == Ok(1)
}

/// Everything below a directory.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        for entry in fs::read_dir(directory.join(&below)).unwrap() {
            let entry = entry.unwrap();
            let name = below.join(entry.file_name());
            found.insert(path(&name).to_owned());
            if entry.file_type().unwrap().is_dir() {
                todo.push(name);
            }
        }
    }
    found
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn run(program: &str, words: &[&str]) {
    let status = Command::new(program).args(words).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{program} {words:?}: {status}");
}

/// A mount of this host, until it is dropped.
pub(crate) struct Mounted(pub(crate) tempfile::TempDir);

impl Mounted {
    pub(crate) fn overlay(options: &[String]) -> Self {
        Self::new("overlay", "overlay", &options.join(","))
    }

    pub(crate) fn new(kind: &str, source: &str, options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run("mount", &["-t", kind, "-o", options, source, path(directory.path())]);
        Self(directory)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// A loop device, detached when it is dropped.
pub(crate) struct LoopDevice(pub(crate) String);

impl LoopDevice {
    pub(crate) fn new(file: &Path) -> Self {
        let made = Command::new("losetup").args(["-f", "--show"]).arg(file).output().unwrap();
        assert!(made.status.success(), "losetup: {made:?}");
        Self(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}
