//! What the machine's threads tell its event loop: points of the start that were passed, and how the machine ended.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::api::{End, FromVmm, Mark};

/// Shared by all threads of a machine.
#[derive(Debug)]
pub struct Notices {
    news: Mutex<News>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct News {
    /// The marks that were ever set: each is told once, so that a guest cannot fill memory with them.
    seen: Vec<Mark>,
    untold: Vec<FromVmm>,
    end: Option<End>,
}

impl Notices {
    /// None yet.
    ///
    /// # Errors
    /// That of eventfd(2).
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            news: Mutex::default(),
            wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })
    }

    /// The event that is signalled for each notice; [`Notices::take_marks`] clears it.
    #[must_use]
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// A point of the start was passed, at `monotonic_ns`; only the first time counts.
    pub fn mark(&self, mark: Mark, monotonic_ns: u64, instructions: u64) {
        let mut news = self.news();
        if !news.seen.contains(&mark) {
            news.seen.push(mark);
            news.untold.push(FromVmm::Mark { mark, monotonic_ns, instructions });
            self.signal();
        }
    }

    /// The machine ended; only the first end counts.
    pub fn end(&self, end: End) {
        self.news().end.get_or_insert(end);
        self.signal();
    }

    /// How the machine ended; `None` while it goes on.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.news().end.clone()
    }

    /// The marks that were not told yet.
    pub fn take_marks(&self) -> Vec<FromVmm> {
        // WouldBlock only says that nothing new was signalled.
        let _ = self.wake.read();
        std::mem::take(&mut self.news().untold)
    }

    fn signal(&self) {
        // Fails only when the counter is full: then the event is signalled already.
        let _ = self.wake.write(1);
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_told_once_and_the_first_end_stays() {
        let notices = Notices::new().unwrap();
        notices.mark(Mark::InitExec, 1, 2);
        notices.mark(Mark::InitExec, 3, 4);
        assert_eq!(notices.take_marks().len(), 1);
        notices.mark(Mark::InitExec, 5, 6);
        assert!(notices.take_marks().is_empty());
        assert_eq!(notices.ended(), None);
        notices.end(End::Panic);
        notices.end(End::PowerOff);
        assert_eq!(notices.ended(), Some(End::Panic));
    }
}
