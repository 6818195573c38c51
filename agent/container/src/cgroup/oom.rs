//! News of kills for want of memory: an eventfd in version 1 (cgroup-v1/memory.rst, "OOM Control"), changes of
//! `memory.events` in version 2.
//!
//! Version 1 tells of the want before it chooses whom to kill, so the count may change only after the news: it is looked
//! at again, at growing intervals.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{
        EventfdFlags, PollFd, PollFlags, Timespec,
        epoll::{self, EventData, EventFlags},
    },
    fs::OFlags,
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
};

use super::{Version, directory::Directory, group::Cgroup, memory};
use crate::error::{Error, at};

/// Kernel files of `memory.events` and `memory.oom_control` are short.
const MAX_TEXT: usize = 1024;

/// When the count is looked at again for the first time after news; each later look waits twice as long.
const FIRST_LOOK: Duration = Duration::from_millis(1);

/// A kill that has not come by then belongs to news of its own.
const LAST_LOOK: Duration = Duration::from_secs(16);

/// A watch over a group.
#[derive(Debug)]
pub struct OomEvents {
    /// Version 1.
    news: Option<News>,
    /// `memory.oom_control` or `memory.events`, whose changes version 2 tells of.
    counter: OwnedFd,
    seen: u64,
}

impl Cgroup {
    /// Watches for processes that are killed for want of memory from now on.
    ///
    /// # Errors
    /// [`Error::State`] when the container's memory is not counted; [`Error::System`].
    pub fn oom_events(&self) -> Result<OomEvents, Error> {
        let Some(dir) = self.directory("memory") else {
            return Err(Error::state(self.id(), "has no cgroup that counts its memory"));
        };
        let watch = || -> Result<OomEvents, Errno> {
            let counter = dir.file(memory::oom_file(dir.version), OFlags::RDONLY)?;
            let news = match dir.version {
                Version::V1 => Some(News::of(dir, &counter)?),
                Version::V2 => None,
            };
            let mut events = OomEvents { news, counter, seen: 0 };
            events.seen = events.count().ok_or(Errno::NODEV)?;
            Ok(events)
        };
        watch().map_err(at("watch the memory of container", self.id()))
    }
}

/// What version 1 has: news without a count.
#[derive(Debug)]
struct News {
    /// The kernel counts it up for each want of memory.
    event: OwnedFd,
    /// Runs while a kill may follow.
    look: OwnedFd,
    /// Readable when either is.
    both: OwnedFd,
    /// Until the next look.
    interval: Duration,
}

impl News {
    fn of(dir: &Directory, control: &OwnedFd) -> Result<Self, Errno> {
        let news = Self::new()?;
        let line = format!("{} {}", news.event.as_raw_fd(), control.as_raw_fd());
        dir.write("cgroup.event_control", &line)?;
        Ok(news)
    }

    fn new() -> Result<Self, Errno> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let look = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let both = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for fd in [&event, &look] {
            epoll::add(&both, fd, EventData::new_u64(0), EventFlags::IN)?;
        }
        Ok(Self { event, look, both, interval: LAST_LOOK })
    }

    /// Takes the news, and says when the count is to be looked at again. Looks end with a count that no news came with.
    fn take(&mut self, counted: bool) {
        // Nothing to read is as good.
        let _ = rustix::io::read(&self.look, &mut [0; 8]);
        self.interval = match rustix::io::read(&self.event, &mut [0; 8]) {
            Ok(_) => FIRST_LOOK,
            Err(_) if counted => LAST_LOOK,
            Err(_) => (self.interval * 2).min(LAST_LOOK),
        };
        // All zero stops the timer.
        let next = if self.interval < LAST_LOOK { self.interval } else { Duration::ZERO };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let time =
            Itimerspec { it_interval: zero, it_value: Timespec::try_from(next).unwrap_or(zero) };
        let _ = rustix::time::timerfd_settime(&self.look, TimerfdTimerFlags::empty(), &time);
    }
}

impl OomEvents {
    /// Has [`OomEvents::changes`] when [`OomEvents::take`] has something to say.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.news.as_ref().map_or(&self.counter, |news| &news.both).as_fd()
    }

    /// What to poll for.
    #[must_use]
    pub fn changes(&self) -> PollFlags {
        if self.news.is_some() { PollFlags::IN } else { PollFlags::PRI }
    }

    /// How many processes were killed since the last call; `None` when the group is gone. Does not wait.
    pub fn take(&mut self) -> Option<u64> {
        let now = self.count()?;
        let new = now.saturating_sub(self.seen);
        self.seen = now;
        if let Some(news) = &mut self.news {
            news.take(new > 0);
        }
        Some(new)
    }

    /// Waits for the next kill. `Some(0)` when there was none for this long; `None` when the group is gone, which is
    /// noticed at the latest then.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<u64>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.take() {
                Some(0) if !left.is_zero() => {}
                other => return Ok(other),
            }
            let left = Timespec::try_from(left).ok();
            let mut changes = [PollFd::from_borrowed_fd(self.fd(), self.changes())];
            match rustix::event::poll(&mut changes, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(at("wait for", "news of the container's memory")(errno)),
            }
        }
    }

    /// Reading is what ends a change in version 2. A removed group's files cannot be read.
    fn count(&self) -> Option<u64> {
        let mut text = [0; MAX_TEXT];
        let length = rustix::io::pread(&self.counter, &mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        Some(memory::oom_kills(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_that_follows_the_news_is_told() {
        let file = tempfile::tempfile().unwrap();
        let write = |kills: u64| {
            let text = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
            rustix::io::pwrite(&file, text.as_bytes(), 0).unwrap();
        };
        write(1);
        let news = News::new().unwrap();
        let event = news.event.try_clone().unwrap();
        let counter = file.try_clone().unwrap().into();
        let mut events = OomEvents { news: Some(news), counter, seen: 1 };
        let is_ready = |events: &OomEvents| {
            let mut poll = [PollFd::from_borrowed_fd(events.fd(), events.changes())];
            rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
        };
        assert_eq!(events.take(), Some(0));
        assert!(!is_ready(&events));
        rustix::io::write(&event, &1_u64.to_ne_bytes()).unwrap();
        assert!(is_ready(&events));
        assert_eq!(events.take(), Some(0));
        write(2);
        assert_eq!(events.wait(Duration::from_secs(60)).unwrap(), Some(1));
        assert_eq!(events.take(), Some(0));
        assert!(!is_ready(&events), "it looks on although the kill was told");
    }
}
