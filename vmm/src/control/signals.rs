//! Signals that end the machine in good order: SIGINT, SIGTERM, SIGHUP.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::signal::create_sigset;

use crate::{api::End, notices::Notices};

const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Keeps these signals from their default action, in this thread and those that it starts; they wait for [`Signals`].
///
/// # Errors
/// That of the system call.
pub fn block_signals() -> io::Result<()> {
    let set = create_sigset(&ENDING)?;
    // SAFETY: the set is valid and the old one is not asked for.
    let outcome =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(outcome)) }
}

/// Receives them in the event loop.
pub struct Signals {
    fd: OwnedFd,
    notices: Arc<Notices>,
}

impl Signals {
    /// Ends the machine of `notices` at such a signal.
    ///
    /// # Errors
    /// That of signalfd(2).
    pub fn new(notices: Arc<Notices>) -> io::Result<Self> {
        let set = create_sigset(&ENDING)?;
        // SAFETY: the set is valid; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made for us alone.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, notices })
    }
}

impl MutEventSubscriber for Signals {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let mut information = mem::MaybeUninit::<libc::signalfd_siginfo>::uninit();
        // SAFETY: the buffer has the size that is said; its contents are not looked at.
        unsafe {
            libc::read(
                self.fd.as_raw_fd(),
                information.as_mut_ptr().cast(),
                size_of::<libc::signalfd_siginfo>(),
            )
        };
        self.notices.end(End::Stopped);
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.fd, EventSet::IN)) {
            self.notices.end(End::Failed(format!("cannot watch for signals: {error}")));
        }
    }
}
