//! Signals as something to read (signalfd(2)), in a process that has blocked all of them.

use std::{
    io,
    mem::size_of,
    os::fd::{FromRawFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

/// Signals that go on to the process that this one stands for.
pub(super) const FORWARDED: [i32; 9] = [
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

/// Signals that came while they were not blocked, a bit for each.
static NOTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(signal: libc::c_int) {
    NOTED.fetch_or(1 << signal, Ordering::Relaxed);
}

/// Does something that starts programs, which inherit blocked signals and would never see them. What comes meanwhile is
/// told by the descriptor afterwards.
pub(crate) fn with_none_blocked<T>(body: impl FnOnce() -> T) -> T {
    let handler = note as extern "C" fn(libc::c_int);
    // SAFETY: the handler only sets a bit; a zeroed set is emptied before its use, and both sets outlive the calls.
    let before = unsafe {
        for signal in FORWARDED {
            libc::signal(signal, handler as libc::sighandler_t);
        }
        let (mut none, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, &raw mut before);
        before
    };
    let done = body();
    // SAFETY: the set is the one from before; the other calls take no pointers.
    unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        let noted = NOTED.swap(0, Ordering::Relaxed);
        for signal in FORWARDED {
            libc::signal(signal, libc::SIG_DFL);
            if noted & 1 << signal != 0 {
                libc::raise(signal);
            }
        }
    }
    done
}

/// The next signal that has come.
pub(crate) fn next(signals: &OwnedFd) -> Option<i32> {
    let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let length = rustix::io::read(signals, &mut record).ok()?;
    // `ssi_signo` is the first field.
    let number = record.get(..length)?.first_chunk::<4>()?;
    i32::try_from(u32::from_ne_bytes(*number)).ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn programs_start_without_blocked_signals_and_none_is_lost() {
        // In a process of its own: signals are the whole process's.
        let blocked = |text: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix("SigBlk:"))
                .map(|set| set.trim().to_owned())
        };
        // SAFETY: the child only makes system calls and starts a program.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let worked = std::panic::catch_unwind(|| {
                // SAFETY: a zeroed set is filled before its use and outlives the call.
                unsafe {
                    let mut all: libc::sigset_t = std::mem::zeroed();
                    libc::sigfillset(&raw mut all);
                    libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
                }
                let signals = descriptor().unwrap();
                let output = with_none_blocked(|| {
                    // SAFETY: takes no pointers.
                    unsafe { libc::raise(libc::SIGTERM) };
                    Command::new("cat").arg("/proc/self/status").output().unwrap()
                });
                let text = String::from_utf8(output.stdout).unwrap();
                assert_eq!(blocked(&text).unwrap(), "0000000000000000");
                assert_eq!((next(&signals), next(&signals)), (Some(libc::SIGTERM), None));
            });
            let code = i32::from(worked.is_err());
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        let mut status = 0;
        // SAFETY: the status outlives the call.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
    }
}
