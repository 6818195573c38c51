//! News of kills for want of memory: an eventfd in version 1 (cgroup-v1/memory.rst, "OOM Control"), changes of
//! `memory.events` in version 2.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec},
    fs::OFlags,
    io::Errno,
};

use super::{Version, directory::Directory, group::Cgroup, memory};
use crate::error::{Error, at};

/// Kernel files of `memory.events` and `memory.oom_control` are short.
const MAX_TEXT: usize = 1024;

/// A watch over a group.
#[derive(Debug)]
pub struct OomEvents {
    /// The eventfd of version 1.
    event: Option<OwnedFd>,
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
            let event = match dir.version {
                Version::V1 => Some(announce(dir, &counter)?),
                Version::V2 => None,
            };
            let mut events = OomEvents { event, counter, seen: 0 };
            events.seen = events.count().ok_or(Errno::NODEV)?;
            Ok(events)
        };
        watch().map_err(at("watch the memory of container", self.id()))
    }
}

/// Has the kernel count up an eventfd for each kill.
fn announce(dir: &Directory, control: &OwnedFd) -> Result<OwnedFd, Errno> {
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    dir.write("cgroup.event_control", &line)?;
    Ok(event)
}

impl OomEvents {
    /// Has [`OomEvents::changes`] when [`OomEvents::take`] has something to say.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_ref().unwrap_or(&self.counter).as_fd()
    }

    /// What to poll for.
    #[must_use]
    pub fn changes(&self) -> PollFlags {
        if self.event.is_some() { PollFlags::IN } else { PollFlags::PRI }
    }

    /// How many processes were killed since the last call; `None` when the group is gone. Does not wait.
    pub fn take(&mut self) -> Option<u64> {
        if let Some(event) = &self.event {
            // Nothing to read is as good.
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
        let now = self.count()?;
        let new = now.saturating_sub(self.seen);
        self.seen = now;
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
