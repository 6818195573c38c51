//! The writable layer of a container: a sparse ext4 image with the two directories that overlayfs wants, `upper` and `work`, at its top.
//! An empty one is made once per size with e2fsprogs; each container gets a copy of the few blocks that are not holes.
//!
//! The file system has a journal, since a container is started again from the image that a killed guest left. It has no metadata or group checksums
//! (a checksum costs the guest thousands of instructions per block, and nothing but the guest writes here), nothing that is initialized later in the
//! background, and no reserved blocks. Each group has its own bitmaps: where several groups have theirs together (flex_bg), the first block that a guest
//! allocates makes it read those of all, 150,000 instructions for 16 groups.

use std::{
    fs::File,
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};

use crate::{Store, StoreError, store::sync_directory};

/// Smallest size in bytes.
pub const MIN_SIZE: u64 = 16 << 20;
/// Largest size in bytes: what ext4 counts without its 64-bit feature.
pub const MAX_SIZE: u64 = 8 << 40;

/// Names templates; changes with [`OPTIONS`].
const VERSION: u32 = 2;
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize";
const OPTIONS: [&str; 20] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-I",
    "256",
    "-i",
    "16384",
    "-m",
    "0",
    "-J",
    "size=4",
    "-G",
    "1",
    "-L",
    "writable",
    "-e",
    "remount-ro",
];
/// A hole reads as zeros, so nothing needs to be zeroed, now or later.
const EXTENDED: &str = "assume_storage_prezeroed=1,nodiscard,root_owner=0:0";

/// Why a writable layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WritableError {
    /// A size that cannot be.
    #[error(
        "a writable layer of {0} bytes is not possible: it must be a multiple of 4096 from 16 MiB to 8 TiB"
    )]
    Size(u64),
    /// A program of e2fsprogs is missing.
    #[error("{program} cannot be run; install e2fsprogs")]
    Run {
        /// The program.
        program: &'static str,
        /// Why it could not be started.
        #[source]
        source: io::Error,
    },
    /// A program of e2fsprogs failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it wrote.
        message: String,
    },
    /// The new image could not be written.
    #[error("the writable layer {} cannot be made", path.display())]
    Write {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the writable layer `path` (mode 0600; it must not exist) of `size` bytes. Nothing is left behind on an error.
///
/// # Errors
/// A size out of range, a missing e2fsprogs, a file that exists, or a full disk.
pub fn create(store: &Store, path: &Path, size: u64) -> Result<(), WritableError> {
    if !(MIN_SIZE..=MAX_SIZE).contains(&size) || !size.is_multiple_of(crate::BLOCK) {
        return Err(WritableError::Size(size));
    }
    let template = template(store, size)?;
    let failed = |source| WritableError::Write { path: path.to_owned(), source };
    let from = File::open(&template).map_err(failed)?;
    let to = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    clone(&from, &to, size).map_err(|e| {
        // The file is ours: it did not exist before.
        let _ = std::fs::remove_file(path);
        failed(e)
    })
}

/// The empty image of `size` bytes, made if the store has none.
fn template(store: &Store, size: u64) -> Result<PathBuf, WritableError> {
    let name = format!("ext4-{VERSION}-{size}");
    let path = store.writable_path(&name);
    if path.exists() {
        return Ok(path);
    }
    let _shared = store.lock_shared()?;
    let _making = store.lock_making(&name)?;
    if path.exists() {
        return Ok(path);
    }
    let work = store.temporary()?;
    let staged = work.path().join("image");
    let failed = |source| WritableError::Write { path: path.clone(), source };
    File::create_new(&staged).and_then(|file| file.set_len(size)).map_err(failed)?;
    let mut mkfs = program("mke2fs");
    // The system's own defaults must not change what is made.
    mkfs.env("MKE2FS_CONFIG", "/dev/null").args(OPTIONS).args(["-O", FEATURES, "-E", EXTENDED]);
    run("mke2fs", mkfs.arg(&staged))?;
    for directory in ["upper", "work"] {
        run(
            "debugfs",
            program("debugfs").args(["-w", "-R", &format!("mkdir /{directory}")]).arg(&staged),
        )?;
    }
    let finish = || {
        File::open(&staged)?.sync_all()?;
        std::fs::rename(&staged, &path)?;
        sync_directory(path.parent().unwrap_or(Path::new("/")))
    };
    finish().map_err(failed)?;
    Ok(path)
}

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs a program. Its warnings do not matter, if it says that it succeeded.
fn run(program: &'static str, command: &mut Command) -> Result<(), WritableError> {
    let output = command.output().map_err(|source| WritableError::Run { program, source })?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    // debugfs always says that it succeeded; then its last line is not the one with its version.
    let failed = !output.status.success()
        || (program == "debugfs" && last.is_some_and(|line| !line.starts_with("debugfs ")));
    if failed {
        let message = last.unwrap_or("no message").trim().chars().take(200).collect();
        return Err(WritableError::Failed { program, message });
    }
    Ok(())
}

/// Shares the blocks where the file system can; otherwise copies those that are not holes.
fn clone(from: &File, to: &File, size: u64) -> io::Result<()> {
    if ioctl_ficlone(to.as_fd(), from.as_fd()).is_ok() {
        return Ok(());
    }
    to.set_len(size)?;
    let mut at = 0;
    loop {
        let start = match seek(from.as_fd(), SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data behind `at`.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        at = seek(from.as_fd(), SeekFrom::Hole(start))?;
        copy(from, to, start, at)?;
    }
}

fn copy(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut write) = (start, start);
    while read < end {
        let left = usize::try_from(end - read).unwrap_or(usize::MAX);
        match copy_file_range(from.as_fd(), Some(&mut read), to.as_fd(), Some(&mut write), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Other file systems, or a kernel that cannot: through memory.
            Err(_) => {
                let mut buffer = vec![0; left.min(1 << 20)];
                from.read_exact_at(&mut buffer, read)?;
                to.write_all_at(&buffer, write)?;
                read += buffer.len() as u64;
                write = read;
            }
        }
    }
    Ok(())
}
