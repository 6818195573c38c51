//! The root file system of a container on this host's kernel: its image, which nobody can write, and over it what the container writes.
//!
//! Everything is mounted in a mount namespace of the calling process, which is its keeper's or that of a command that copies files, so that no
//! mount outlives them and the container, however they end.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bulkhead_rootfs::{Image, Store};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
        mount_change, move_mount, unmount,
    },
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{ContainerError, Place, files::make_directory};

/// Why a root cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A directory or a mount.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The image.
    #[error(transparent)]
    Store(#[from] bulkhead_rootfs::StoreError),
}

/// The directory of a container's bundle where its root is mounted.
pub const ROOTFS: &str = "rootfs";
/// The directory where its image is.
const LOWER: &str = "lower";

/// Gives this process, which must have one thread, a mount namespace of its own, and mounts a container's root in it. Returns where: below `data`, its bundle.
///
/// # Errors
/// No permission to mount, or a kernel without EROFS or overlayfs.
pub fn mount(image: &Image, store: &Store, data: &Path) -> Result<PathBuf, RootError> {
    enter_namespace().map_err(mount_error("a namespace for its root", data))?;
    let [lower, upper, work, rootfs] = [LOWER, "upper", "work", ROOTFS].map(|name| data.join(name));
    let first = !upper.exists();
    for directory in [&lower, &upper, &work, &rootfs] {
        make_directory(directory)?;
    }
    let (metadata, blobs) = image.host_disk(store)?;
    mount_erofs(&metadata, &blobs, &lower).map_err(mount_error("the image", &lower))?;
    if first {
        // The root directory is the upper one: it looks like the image's.
        take_over(&lower, &upper).map_err(ContainerError::io("change", &upper))?;
    }
    mount_overlay(&lower, &upper, &work, &rootfs)
        .map_err(mount_error("the writable layer", &rootfs))?;
    Ok(rootfs)
}

/// Takes the root out of this process's mount namespace. A container that was made of it keeps it.
///
/// # Errors
/// [`ContainerError::Mount`].
pub fn detach(place: &Place) -> Result<(), ContainerError> {
    for name in [ROOTFS, LOWER] {
        let path = place.file(name);
        unmount(&path, UnmountFlags::DETACH)
            .map_err(|error| mount_error("nothing", &path)(error.into()))?;
    }
    Ok(())
}

fn mount_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ContainerError + 'a {
    move |source| ContainerError::Mount { what, path: path.into(), source }
}

/// What is mounted on the host later still arrives here; nothing of this arrives there.
fn enter_namespace() -> io::Result<()> {
    // SAFETY: a mount namespace of its own changes which files paths lead to, and no memory or descriptor.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    Ok(())
}

fn take_over(from: &Path, to: &Path) -> io::Result<()> {
    let attributes = fs::metadata(from)?;
    std::os::unix::fs::chown(to, Some(attributes.uid()), Some(attributes.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(attributes.mode() & 0o7777))
}

fn mount_erofs(metadata: &Path, blobs: &[PathBuf], on: &Path) -> io::Result<()> {
    match erofs(metadata.as_os_str(), &mut blobs.iter().map(|blob| blob.as_os_str()), on) {
        // Linux before 6.12, or EROFS without files as its devices.
        Err(Errno::NOTBLK) => {}
        done => return Ok(done?),
    }
    let metadata = LoopDevice::new(metadata)?;
    let devices = blobs.iter().map(|blob| LoopDevice::new(blob)).collect::<io::Result<Vec<_>>>()?;
    let mut paths = devices.iter().map(|device| OsStr::new(&device.0));
    Ok(erofs(OsStr::new(&metadata.0), &mut paths, on)?)
}

fn erofs(
    source: &OsStr,
    devices: &mut dyn Iterator<Item = &OsStr>,
    on: &Path,
) -> Result<(), Errno> {
    let filesystem = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&filesystem, "ro")?;
    fsconfig_set_string(&filesystem, "source", source)?;
    for device in devices {
        fsconfig_set_string(&filesystem, "device", device)?;
    }
    attach(&filesystem, MountAttrFlags::MOUNT_ATTR_RDONLY, on)
}

fn mount_overlay(lower: &Path, upper: &Path, work: &Path, on: &Path) -> io::Result<()> {
    let filesystem = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut open = Vec::new();
    for (name, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        // Commas and colons of a path would mean something here.
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        fsconfig_set_string(&filesystem, name, path)?;
        open.push(directory);
    }
    fsconfig_set_string(&filesystem, "source", "overlay")?;
    Ok(attach(&filesystem, MountAttrFlags::empty(), on)?)
}

fn attach(filesystem: &OwnedFd, attributes: MountAttrFlags, on: &Path) -> Result<(), Errno> {
    fsconfig_create(filesystem)?;
    let mounted = fsmount(filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mounted.as_fd(), "", CWD, on, flags)
}

/// A loop device that goes when nothing uses it any more: detaching one that is in use makes the kernel do it at the last close.
#[derive(Debug)]
struct LoopDevice(String);

impl LoopDevice {
    fn new(file: &Path) -> io::Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--read-only", "--find", "--show"]).arg(file).stdin(Stdio::null());
        let output = command.output()?;
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && device.starts_with("/dev/") {
            return Ok(Self(device));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("losetup failed: {}", said.trim())))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A device that stays attached costs a number and nothing else.
        let _ = Command::new("losetup").args(["--detach", &self.0]).stdin(Stdio::null()).status();
    }
}
