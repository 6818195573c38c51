//! Masked and read-only paths, by a process whose root is the container's.

use std::ffi::CString;

use rustix::{
    fs::{AtFlags, CWD, FileType, StatxFlags},
    io::Errno,
    mount::MountFlags,
};

use crate::{
    error::{Error, at},
    sys::{self, MountAttr},
};

/// Puts the null device over files and an empty directory over directories. What is not there needs no mask.
pub(crate) fn mask(paths: &[String]) -> Result<(), Error> {
    if !paths.is_empty() && !null_is_null() {
        return Err(Error::invalid(
            "linux.maskedPaths over",
            "/dev/null",
            "it is not the null device in this container",
        ));
    }
    let mut empty: Option<&str> = None;
    for path in paths {
        let masked = match rustix::mount::mount_bind("/dev/null", path) {
            Err(Errno::NOTDIR) => match empty {
                // One empty file system serves for all.
                Some(empty) => rustix::mount::mount_bind(empty, path),
                None => {
                    let data = c"nr_blocks=1,nr_inodes=1";
                    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, data)
                        .map(|()| empty = Some(path))
                }
            },
            masked => masked,
        };
        match masked {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(at("mask", path)(errno)),
        }
    }
    Ok(())
}

/// An image can bring its own `/dev/null`.
fn null_is_null() -> bool {
    rustix::fs::statx(CWD, "/dev/null", AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE).is_ok_and(
        |stat| {
            FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::CharacterDevice
                && (stat.stx_rdev_major, stat.stx_rdev_minor) == (1, 3)
        },
    )
}

/// Makes trees read-only; the others of their mounts stay as they are. What is not there needs no protection.
pub(crate) fn read_only(paths: &[String]) -> Result<(), Error> {
    for path in paths {
        match rustix::mount::mount_bind_recursive(path, path) {
            Ok(()) => set_read_only(path, true)?,
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(at("make read-only", path)(errno)),
        }
    }
    Ok(())
}

/// Makes the mount at `path` read-only, and, when `recursive`, those below it.
pub(crate) fn set_read_only(path: &str, recursive: bool) -> Result<(), Error> {
    let name = CString::new(path)
        .map_err(|_| Error::invalid("linux.readonlyPaths", path, "it holds a zero byte"))?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    sys::mount_setattr(CWD, &name, recursive, &attr).map_err(at("make read-only", path))
}
