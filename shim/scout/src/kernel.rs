//! System calls that no library has, by number.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// What a system call returned, or why it refused.
pub(crate) type Result<T> = std::result::Result<T, io::Error>;

/// Makes a system call.
///
/// # Safety
/// The arguments must be what the call with this number takes: pointers among them live, and what it writes may be written.
pub(crate) unsafe fn call<const N: usize>(
    number: libc::c_long,
    arguments: [usize; N],
) -> Result<i64> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: as the caller promises.
    let result = unsafe {
        libc::syscall(
            number,
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for a call that returns a new descriptor, which is closed at once.
///
/// # Safety
/// As [`call`].
pub(crate) unsafe fn opened<const N: usize>(
    number: libc::c_long,
    arguments: [usize; N],
) -> Result<()> {
    // SAFETY: as the caller promises.
    let descriptor = unsafe { call(number, arguments) }?;
    if let Ok(descriptor) = i32::try_from(descriptor) {
        // SAFETY: the call made it, so nobody else has it.
        drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    }
    Ok(())
}

/// The error's name, as `EPERM`.
pub(crate) fn name(error: &io::Error) -> String {
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EIO, "EIO"),
        (libc::ENXIO, "ENXIO"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::ENODEV, "ENODEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOEXEC, "ENOEXEC"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::ESTALE, "ESTALE"),
        (libc::EUSERS, "EUSERS"),
        (libc::ENOKEY, "ENOKEY"),
    ];
    let number = error.raw_os_error().unwrap_or(0);
    let known = names.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("error {number}"), |(_, name)| (*name).to_owned())
}
