//! What is at a path of the host.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FsWord, StatFs, major, minor, statfs};

/// A thing of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its absolute path without symbolic links.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
}

/// Kinds of things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory; of a tmpfs, with that file system's size in bytes (0: unlimited).
    Directory {
        /// The tmpfs' size.
        tmpfs: Option<u64>,
    },
    /// A regular file.
    File,
    /// A device.
    Device {
        /// A block device.
        block: bool,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A Unix socket.
    Socket,
    /// A named pipe.
    Fifo,
    /// Anything in a file system that shows the host's kernel, of this type.
    Kernel(&'static str),
}

/// Looks at the host's files.
pub trait Host {
    /// Follows symbolic links to what is at `path`.
    ///
    /// # Errors
    /// The system's.
    fn look(&self, path: &Path) -> io::Result<Found>;

    /// Whether there is something at `path`, an absolute path inside `root`, whose links lead nowhere outside.
    fn has(&self, root: &Path, path: &str) -> bool;
}

/// The host that this process runs on.
#[derive(Debug)]
pub struct ThisHost;

/// File systems that show the kernel (statfs(2)).
const KERNEL: [(FsWord, &str); 9] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x1cd1, "devpts"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xcafe_4a11, "bpf"),
];
const TMPFS: FsWord = 0x0102_1994;

impl Host for ThisHost {
    fn look(&self, path: &Path) -> io::Result<Found> {
        let path = fs::canonicalize(path)?;
        let facts = fs::metadata(&path)?;
        let kind = facts.file_type();
        let device =
            |block| Kind::Device { block, major: major(facts.rdev()), minor: minor(facts.rdev()) };
        let kind = if kind.is_char_device() {
            device(false)
        } else if kind.is_block_device() {
            device(true)
        } else if kind.is_socket() {
            Kind::Socket
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            on_file_system(&path, &statfs(&path)?, kind.is_dir())
        };
        Ok(Found { path, kind })
    }

    fn has(&self, root: &Path, path: &str) -> bool {
        use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(CWD, root, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty())
            .and_then(|root| openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT))
            .is_ok()
    }
}

fn on_file_system(path: &Path, facts: &StatFs, directory: bool) -> Kind {
    if let Some((_, name)) = KERNEL.iter().find(|(magic, _)| *magic == facts.f_type) {
        return Kind::Kernel(name);
    }
    if path == Path::new("/dev") {
        return Kind::Kernel("devtmpfs");
    }
    if !directory {
        return Kind::File;
    }
    let tmpfs = (facts.f_type == TMPFS)
        .then(|| u64::try_from(facts.f_bsize).unwrap_or(0).saturating_mul(facts.f_blocks));
    Kind::Directory { tmpfs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_what_they_are() {
        let kind = |path: &str| ThisHost.look(Path::new(path)).unwrap().kind;
        assert_eq!(kind("/dev/null"), Kind::Device { block: false, major: 1, minor: 3 });
        assert_eq!(kind("/proc/self/status"), Kind::Kernel("proc"));
        assert_eq!(kind("/sys/kernel"), Kind::Kernel("sysfs"));
        assert_eq!(kind("/dev"), Kind::Kernel("devtmpfs"));
        let dir = tempfile::tempdir().unwrap();
        let (file, link, socket) =
            (dir.path().join("file"), dir.path().join("link"), dir.path().join("socket"));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(ThisHost.look(&link).unwrap().kind, Kind::File);
        assert_eq!(ThisHost.look(&link).unwrap().path, file.canonicalize().unwrap());
        assert_eq!(ThisHost.look(&socket).unwrap().kind, Kind::Socket);
        assert!(ThisHost.look(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_root_is_not_left_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("out")).unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        assert!(ThisHost.has(dir.path(), "/in"));
        assert!(ThisHost.has(dir.path(), "/in/../../../in"));
        assert!(!ThisHost.has(dir.path(), "/out/self"));
    }
}
