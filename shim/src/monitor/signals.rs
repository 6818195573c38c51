//! Signals as something to read (signalfd(2)), in a process that has blocked all of them.

use std::{
    io,
    mem::size_of,
    os::fd::{FromRawFd, OwnedFd},
};

/// Signals that go on to the process that this one stands for.
const FORWARDED: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// A descriptor that tells of them.
pub(crate) fn descriptor() -> io::Result<OwnedFd> {
    // SAFETY: the zeroed set is emptied before its use and outlives the calls.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in FORWARDED {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal that has come.
pub(crate) fn next(signals: &OwnedFd) -> Option<i32> {
    let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let length = rustix::io::read(signals, &mut record).ok()?;
    // `ssi_signo` is the first field.
    let number = record.get(..length)?.first_chunk::<4>()?;
    i32::try_from(u32::from_ne_bytes(*number)).ok()
}
