//! A finished disk: checked with fsck.erofs, mounted with the host's kernel, and taken down entry by entry.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_rootfs::Image;

/// What is to be seen of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, i64),
    pub links: u64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    /// Major and minor.
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

pub type Tree = BTreeMap<Vec<u8>, Seen>;

/// Copies the disk of an image into one file, holes kept.
pub fn concatenate(image: &Image, to: &Path) {
    assert_eq!(join(&image.disk_files(), to), image.size);
}

/// Copies files one after the other into one, holes kept. Returns its length.
pub fn join(parts: &[PathBuf], to: &Path) -> u64 {
    let mut out = fs::File::create(to).unwrap();
    let mut length = 0;
    for part in parts {
        let size = fs::metadata(part).unwrap().len();
        assert!(size > 0 && size % 4096 == 0, "{}: {size}", part.display());
        copy_sparse(part, &mut out, length);
        length += size;
    }
    out.set_len(length).unwrap();
    length
}

fn copy_sparse(from: &Path, out: &mut fs::File, at: u64) {
    use std::io::{Read, Seek, SeekFrom};
    let mut from = fs::File::open(from).unwrap();
    let mut position = 0;
    while let Ok(data) = rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(position)) {
        let hole = rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(data)).unwrap();
        from.seek(SeekFrom::Start(data)).unwrap();
        out.seek(SeekFrom::Start(at + data)).unwrap();
        io::copy(&mut (&mut from).take(hole - data), out).unwrap();
        position = hole;
    }
}

/// Runs fsck.erofs on a disk and asserts that it is content.
pub fn fsck(disk: &Path) {
    let output = Command::new("fsck.erofs")
        .arg(disk)
        .output()
        .expect("fsck.erofs runs (package erofs-utils)");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && !said.contains("<E>"), "fsck.erofs: {said}");
}

/// Whether this process may mount; says so once if not.
pub fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: mounting needs root");
    }
    root
}

/// A mounted disk, unmounted when it is dropped.
pub struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    pub fn new(disk: &Path, kind: &str, options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", kind, "-o", options])
            .arg(disk)
            .arg(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
        Self { dir }
    }

    /// A directory for the caller to mount on.
    pub fn nothing() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Everything in it by its path; the root is the empty one.
    pub fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(path) = todo.pop() {
            let full = self.path().join(&path);
            let seen = see(&full);
            if seen.kind == Kind::Directory {
                for entry in fs::read_dir(&full).unwrap() {
                    todo.push(path.join(entry.unwrap().file_name()));
                }
            }
            tree.insert(path.as_os_str().as_bytes().to_vec(), seen);
        }
        tree
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

/// A read-only loop device, detached when it is dropped.
pub struct LoopDevice(String);

impl LoopDevice {
    pub fn new(file: &Path) -> Self {
        let output =
            Command::new("losetup").args(["-r", "-f", "--show"]).arg(file).output().unwrap();
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    pub fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Mounts the disk of an image, after fsck.
pub fn mount(image: &Image) -> (tempfile::TempDir, Mounted) {
    let dir = tempfile::tempdir().unwrap();
    let mounted = mount_in(image, dir.path());
    (dir, mounted)
}

/// The same, with the disk in `dir`, which outlives the mount.
pub fn mount_in(image: &Image, dir: &Path) -> Mounted {
    let disk = dir.join("disk");
    concatenate(image, &disk);
    fsck(&disk);
    Mounted::new(&disk, "erofs", "ro,loop")
}

fn see(path: &Path) -> Seen {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let device = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_file() {
        let content = fs::read(path).unwrap();
        assert_eq!(content.len() as u64, metadata.len());
        Kind::File(content)
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
    } else if kind.is_char_device() {
        Kind::Char(device.0, device.1)
    } else if kind.is_block_device() {
        Kind::Block(device.0, device.1)
    } else {
        assert!(kind.is_fifo(), "{}", path.display());
        Kind::Fifo
    };
    Seen {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        links: metadata.nlink(),
        xattrs: xattrs(path),
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = BTreeMap::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(length);
        found.insert(String::from_utf8(name.to_vec()).unwrap(), value);
    }
    found
}
