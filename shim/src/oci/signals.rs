//! This process's signals, read from a descriptor (signalfd(2)) so that one loop can wait for them and for a terminal.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Those that a fault of this process causes: to wait for them makes no sense (signal(7)).
const FAULTS: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// All signals of this process, from now on.
#[derive(Debug)]
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Keeps signals from doing anything by themselves. This process has one thread.
    pub(super) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is initialized by sigfillset before anything reads it; all calls get valid pointers to it.
        let fd = unsafe {
            libc::sigfillset(set.as_mut_ptr());
            for fault in FAULTS {
                libc::sigdelset(set.as_mut_ptr(), fault);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it, for nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next one that has come; `None` when there is none.
    pub(super) fn take(&self) -> Option<i32> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.0, &mut info).ok()?;
        // `ssi_signo` is the first field.
        let number = info.get(..read)?.first_chunk::<4>()?;
        i32::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
