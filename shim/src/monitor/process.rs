//! Makes a process that stands for one of a container: a fork of the caller in a session of its own.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use rustix::{io::Errno, process::Pid};

use super::signals::FORWARDED;

/// The exit code of a process that could not do its work: SIGKILL's.
pub(crate) const LOST: u8 = 137;

/// Forks. The child leads a session, has the caller's standard streams, or `terminal` in their place as its controlling
/// terminal, and of all other descriptors only `keep`; it ends with what `body` returns. All signals are blocked in it.
///
/// # Errors
/// That of fork(2), and a caller with several threads: a child of it would wait for locks that nobody holds.
pub(crate) fn fork(
    terminal: Option<OwnedFd>,
    keep: &[RawFd],
    body: impl FnOnce() -> u8,
) -> io::Result<Pid> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "this process has {threads} threads, and only one with a single thread can be copied"
        )));
    }
    let before = block_all()?;
    // SAFETY: there is no other thread, so that the child is a whole copy of this process.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let ended = catch_unwind(AssertUnwindSafe(|| match prepare(terminal.as_ref(), keep) {
            Ok(()) => body(),
            Err(_) => LOST,
        }));
        // SAFETY: ends the process; nothing of the caller's may run in the child.
        unsafe { libc::_exit(i32::from(ended.unwrap_or(LOST))) }
    }
    let failed = io::Error::last_os_error();
    // SAFETY: the set was filled in by the call that blocked the signals.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    if pid < 0 { Err(failed) } else { Pid::from_raw(pid).ok_or(failed) }
}

fn block_all() -> io::Result<libc::sigset_t> {
    // SAFETY: a zeroed set is filled by sigfillset; both sets outlive the calls.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const all, &raw mut before) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(before)
    }
}

/// What the child does before its work.
fn prepare(terminal: Option<&OwnedFd>, keep: &[RawFd]) -> Result<(), Errno> {
    default_dispositions();
    rustix::process::setsid()?;
    // No file system is held that the caller happened to be in.
    rustix::process::chdir("/")?;
    if let Some(terminal) = terminal {
        rustix::process::ioctl_tiocsctty(terminal)?;
        rustix::stdio::dup2_stdin(terminal)?;
        rustix::stdio::dup2_stdout(terminal)?;
        rustix::stdio::dup2_stderr(terminal)?;
    }
    close_others(keep)
}

/// An ignored signal is not told by signalfd(2), and with SIGCHLD ignored no child can be waited for.
fn default_dispositions() {
    for signal in FORWARDED.into_iter().chain([libc::SIGCHLD]) {
        // SAFETY: takes no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Closes every descriptor above the standard ones that is not in `keep`.
fn close_others(keep: &[RawFd]) -> Result<(), Errno> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: the child uses no descriptor in the range any more, and never drops the caller's objects that own them.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done < 0 { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The numbers of descriptors to keep.
pub(crate) fn numbers<'a>(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> Vec<RawFd> {
    fds.into_iter().map(|fd| fd.as_raw_fd()).collect()
}
