//! Network namespaces with a name: a file below the run directory on which the namespace is mounted, so that it stays as it is when the processes
//! in it are killed, until what CNI made has been given back.
//!
//! ```text
//! <run>/networks/lock     held while a namespace is made or removed
//! <run>/networks/ns/      while there is one: a mount of its own, whose changes reach the mount namespaces of running containers' keepers, too
//! <run>/networks/ns/<id>  the namespace
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, StatxAttributes, StatxFlags, flock, statfs, statx},
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{CniError, error::failed};

/// linux/magic.h: `NSFS_MAGIC`.
const NAMESPACES: i64 = 0x6e73_6673;

/// Where the namespace of this container is, while it has one.
#[must_use]
pub fn path(run: &Path, id: &str) -> PathBuf {
    run.join("networks/ns").join(id)
}

/// Whether a namespace is there.
pub(super) fn is_there(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.f_type == NAMESPACES)
}

/// Makes a namespace with a loopback device that is up.
///
/// # Errors
/// [`CniError::System`], with nothing left.
pub(super) fn make(path: &Path) -> Result<(), CniError> {
    let directory = directory(path);
    let _lock = lock(directory)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed(format!("make {}", directory.display())))?;
    share(directory).map_err(failed(format!("mount {}", directory.display())))?;
    let created = File::options().create(true).truncate(false).write(true).mode(0o400).open(path);
    created.map_err(failed(format!("make {}", path.display())))?;
    let to = path.to_owned();
    // Only this thread goes there.
    let there = move || -> io::Result<()> {
        // SAFETY: this thread's descriptors and memory stay as they are.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        bulkhead_container::loopback_up().map_err(io::Error::other)?;
        Ok(mount_bind("/proc/thread-self/ns/net", &to)?)
    };
    let made = thread::Builder::new().spawn(there).and_then(|thread| {
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread failed")))
    });
    made.map_err(|error| {
        let _ = take_away(path);
        failed("make a network namespace")(error)
    })
}

/// Removes a namespace; that it is not there is no error.
///
/// # Errors
/// [`CniError::System`].
pub(super) fn remove(path: &Path) -> Result<(), CniError> {
    let directory = directory(path);
    if !directory.exists() {
        return Ok(());
    }
    let _lock = lock(directory)?;
    take_away(path).map_err(failed(format!("remove {}", path.display())))
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn lock(directory: &Path) -> Result<File, CniError> {
    let up = self::directory(directory);
    let open = || -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(up)?;
        let mut options = File::options();
        let lock =
            options.create(true).truncate(false).write(true).mode(0o600).open(up.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    };
    open().map_err(failed(format!("lock {}", up.display())))
}

/// Makes a directory a mount whose changes are seen wherever it was copied to.
fn share(directory: &Path) -> Result<(), Errno> {
    let found = statx(CWD, directory, AtFlags::empty(), StatxFlags::TYPE)?;
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        mount_bind(directory, directory)?;
        // First no more of the group of the file system that it is on.
        mount_change(directory, MountPropagationFlags::PRIVATE)?;
        mount_change(directory, MountPropagationFlags::SHARED)?;
    }
    Ok(())
}

/// The namespace goes, and with the last one the directory.
fn take_away(path: &Path) -> io::Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) => {}
            // Nothing is mounted there (any more).
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = directory(path);
    if fs::read_dir(directory)?.next().is_none() {
        // Who looks into it just now keeps it until the next one goes.
        let _ = unmount(directory, UnmountFlags::empty());
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, process::Command};

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::*;

    #[test]
    fn a_namespace_is_made_used_and_removed() {
        let run = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|id| path(run.path(), id));
        for path in [&one, &two] {
            assert!(!is_there(path));
            make(path).unwrap();
            assert!(is_there(path));
        }
        let file = File::open(&one).unwrap();
        let names = thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
            String::from_utf8(links.stdout).unwrap()
        });
        let names = names.join().unwrap();
        assert!(
            names.contains("lo:") && names.contains(",UP") && !names.contains("eth"),
            "{names}"
        );
        // Twice is once, and what is not there goes, too.
        for path in [&one, &one, &two] {
            remove(path).unwrap();
            assert!(!path.exists());
        }
        assert!(!run.path().join("networks/ns").exists());
        remove(&path(&run.path().join("never"), "x")).unwrap();
        // A name without its namespace, as after a restart of the host.
        make(&one).unwrap();
        unmount(&one, UnmountFlags::DETACH).unwrap();
        assert!(one.exists() && !is_there(&one));
        make(&one).unwrap();
        assert!(is_there(&one));
        remove(&one).unwrap();
        let left = fs::read_dir(run.path().join("networks")).unwrap().count();
        assert_eq!(left, 1, "the lock");
    }
}
