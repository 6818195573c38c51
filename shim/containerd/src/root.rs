//! A bundle's root file system, and what is noted in the bundle for whoever cleans up after a shim that was killed.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bulkhead::sandbox::Mount;
use rustix::{io::Errno, mount::UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::{
    owners::Owners,
    refusal::{Refusal, at, cannot},
};

/// Where containerd wants a container's root, below the bundle.
const ROOTFS: &str = "rootfs";
/// The note's file.
const NOTE: &str = "bulkhead.json";
/// The most that the kernel takes of a mount's options: a page of memory with the zero at its end.
const MAX_OPTIONS: usize = 4095;
/// What every bundle has (OCI runtime-spec, bundle.md).
const CONFIG: &str = "config.json";
/// The option of overlayfs that names its lower directories.
pub(crate) const LOWER: &str = "lowerdir=";
/// The option of a file that has a block device's contents (mount(8)).
const LOOP: &str = "loop";
/// Mounts that are taken away from one place; more are nobody's.
const MOST: usize = 256;

/// How the container of a bundle is found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Where the states of its namespace's containers are.
    pub(crate) root: PathBuf,
}

impl Note {
    /// Reads it; none: nothing was made.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn read(bundle: &Path) -> Result<Option<Self>, Refusal> {
        let file = bundle.join(NOTE);
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(at("read", &file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &file)(error)),
        }
    }
}

/// Puts into the bundle what has to be there before anything is made that would have to be removed: the note, and a directory for mounts.
/// For the shim itself, not for its helpers: when containerd notices that the shim was killed it removes the bundle, and cannot if something is still made in it.
///
/// # Errors
/// What cannot be made.
pub(crate) fn prepare(bundle: &Path, note: &Note, mounts: &[Mount]) -> Result<(), Refusal> {
    if let Err(error) = fs::metadata(bundle.join(CONFIG)) {
        return Err(Refusal::invalid(format!("bundle {}: {CONFIG}: {error}", bundle.display())));
    }
    let text = serde_json::to_vec(note).map_err(at("write", bundle))?;
    replace(bundle, NOTE, &text)?;
    if mounts.is_empty() {
        return Ok(());
    }
    let rootfs = bundle.join(ROOTFS);
    match fs::create_dir(&rootfs) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(at("make", &rootfs)(error))
        }
        _ => Ok(()),
    }
}

/// Writes a file of the bundle that is whole whenever it is there.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn replace(bundle: &Path, name: &str, text: &[u8]) -> Result<(), Refusal> {
    let (file, new) = (bundle.join(name), bundle.join(format!(".{name}")));
    fs::write(&new, text).map_err(at("write", &new))?;
    fs::rename(&new, &file).map_err(at("write", &file))
}

/// Makes the mounts on the bundle's root, in their order. For a process with one thread: it may go to another directory and back.
///
/// # Errors
/// What the kernel refuses; nothing is mounted then.
pub(crate) fn mount(bundle: &Path, mounts: &[Mount]) -> Result<(), Refusal> {
    let rootfs = bundle.join(ROOTFS);
    for mount in mounts {
        let made = target(&rootfs, &mount.target).and_then(|on| make(mount, &on));
        if let Err(refusal) = made {
            // The first error is what matters.
            let _ = unmount(bundle);
            return Err(refusal);
        }
    }
    Ok(())
}

/// A mount point below the root; a snapshotter names none that leads out of it.
fn target(rootfs: &Path, below: &str) -> Result<PathBuf, Refusal> {
    let below = below.trim_start_matches('/');
    if Path::new(below).components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Refusal::invalid(format!("mount target {below:?}: it leads out of the root")));
    }
    Ok(rootfs.join(below))
}

fn make(mount: &Mount, on: &Path) -> Result<(), Refusal> {
    let Mount { kind, source, options, .. } = mount;
    if let Some((owners, options)) = Owners::of(options)? {
        return owners.mount(&Mount { options, ..mount.clone() }, on);
    }
    if options.iter().any(|option| option == LOOP) {
        return through_loop_device(mount, on);
    }
    let length: usize = options.iter().map(|option| option.len() + 1).sum();
    let done = if kind == "overlay" && length > MAX_OPTIONS {
        let (directory, options) = shorter(options);
        within(&directory, || bulkhead_container::mount(kind, source, &options, on))?
    } else {
        bulkhead_container::mount(kind, source, options, on)
    };
    done.map_err(|error| Refusal::failed(error.to_string()))
}

/// Has mount(8) find a loop device, which goes with the mount.
fn through_loop_device(
    Mount { kind, source, options, .. }: &Mount,
    on: &Path,
) -> Result<(), Refusal> {
    let mut command = Command::new("mount");
    command.args(["-n", "-t", kind, "-o", &options.join(","), "--", source]).arg(on);
    let done = command.stdin(Stdio::null()).output().map_err(at("run mount(8) for", on))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Refusal::failed(said.trim().replace('\n', "; ")))
}

/// The lower directories by their names below a directory that they share.
pub(crate) fn shorter(options: &[String]) -> (PathBuf, Vec<String>) {
    let lower = options.iter().find_map(|option| option.strip_prefix(LOWER)).unwrap_or_default();
    let mut paths = lower.split(':').map(Path::new);
    let mut shared = paths.next().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned();
    for path in paths {
        while !path.starts_with(&shared) && shared.pop() {}
    }
    let short = |path: &str| {
        let path = Path::new(path);
        path.strip_prefix(&shared).unwrap_or(path).display().to_string()
    };
    let rewrite = |option: &String| match option.strip_prefix(LOWER) {
        Some(lower) => {
            let lower: Vec<_> = lower.split(':').map(short).collect();
            format!("{LOWER}{}", lower.join(":"))
        }
        None => option.clone(),
    };
    let options = options.iter().map(rewrite).collect();
    (shared, options)
}

/// Does something in another working directory.
pub(crate) fn within<T>(directory: &Path, body: impl FnOnce() -> T) -> Result<T, Refusal> {
    let before = env::current_dir().map_err(cannot("find the working directory"))?;
    env::set_current_dir(directory).map_err(at("enter", directory))?;
    let done = body();
    env::set_current_dir(&before).map_err(at("enter", &before))?;
    Ok(done)
}

/// Takes all mounts off the bundle's root.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn unmount(bundle: &Path) -> Result<(), Refusal> {
    let rootfs = bundle.join(ROOTFS);
    for _ in 0..MOST {
        match rustix::mount::unmount(&rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or it is gone.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(at("unmount", &rootfs)(errno)),
        }
    }
    Err(Refusal::failed(format!("{}: more than {MOST} mounts on it", rootfs.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_layers_are_named_shorter() {
        let layers: Vec<_> = (0..120).map(|n| format!("/var/lib/snapshots/{n}/fs")).collect();
        let options =
            [format!("lowerdir={}", layers.join(":")), "upperdir=/var/lib/snapshots/x/fs".into()];
        let (shared, short) = shorter(&options);
        assert_eq!(shared, Path::new("/var/lib/snapshots"));
        assert!(short[0].starts_with("lowerdir=0/fs:1/fs:") && short[0].len() < MAX_OPTIONS);
        assert_eq!(short[1], options[1]);
        let (shared, short) = shorter(&["lowerdir=/a/b:/c".into()]);
        assert_eq!((shared.as_path(), short[0].as_str()), (Path::new("/"), "lowerdir=a/b:c"));
    }

    #[test]
    fn no_mount_leads_out_of_the_root() {
        let rootfs = Path::new("/b/rootfs");
        assert_eq!(target(rootfs, "/sub").unwrap(), Path::new("/b/rootfs/sub"));
        assert!(target(rootfs, "a/../../etc").is_err());
    }

    #[test]
    fn a_bundle_without_a_note_has_made_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Note::read(dir.path()).unwrap().is_none());
        let note = Note { root: "/r".into() };
        let refused = prepare(dir.path(), &note, &[]).unwrap_err().to_string();
        assert!(refused.contains("config.json"), "{refused}");
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        prepare(dir.path(), &note, &[]).unwrap();
        assert!(!dir.path().join(ROOTFS).exists());
        assert_eq!(Note::read(dir.path()).unwrap().unwrap().root, Path::new("/r"));
        unmount(dir.path()).unwrap();
    }
}
