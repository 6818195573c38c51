//! News of kills for want of memory: an eventfd in version 1 (cgroup-v1/memory.rst, "OOM Control"), changes of
//! `memory.events` in version 2.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags},
    fs::OFlags,
    io::Errno,
};

use super::{Version, directory::Directory, group::Cgroup, memory};
use crate::error::{Error, at};

/// A watch over a group.
#[derive(Debug)]
pub struct OomEvents {
    /// The eventfd, or `memory.events`.
    changes: OwnedFd,
    memory: Directory,
    seen: u64,
}

impl Cgroup {
    /// Watches for processes that are killed for want of memory from now on.
    ///
    /// # Errors
    /// [`Error::State`] when the container's memory is not controlled; [`Error::System`].
    pub fn oom_events(&self) -> Result<OomEvents, Error> {
        let Some(dir) = self.directory("memory") else {
            return Err(Error::state(self.id(), "has no cgroup that counts its memory"));
        };
        let changes = match dir.version {
            Version::V1 => watch_v1(dir),
            Version::V2 => dir.file("memory.events", OFlags::RDONLY),
        }
        .map_err(at("watch the memory of container", self.id()))?;
        let memory = Directory::new(dir.version, &dir.controllers, dir.path.clone(), 0);
        let seen = memory::oom_kills(dir);
        Ok(OomEvents { changes, memory, seen })
    }
}

fn watch_v1(dir: &Directory) -> Result<OwnedFd, Errno> {
    let control = dir.file("memory.oom_control", OFlags::RDONLY)?;
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    dir.write("cgroup.event_control", &line)?;
    Ok(event)
}

impl OomEvents {
    /// Readable (version 1) or with an exceptional condition (`EPOLLPRI`, version 2) when [`OomEvents::take`] has
    /// something to say.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// How many processes were killed since the last call; `None` when the group is gone. Does not wait.
    pub fn take(&mut self) -> Option<u64> {
        let mut buffer = [0; 512];
        let changed = match self.memory.version {
            Version::V1 => rustix::io::read(&self.changes, &mut buffer),
            // The change is over once it has been read.
            Version::V2 => rustix::io::pread(&self.changes, &mut buffer, 0),
        };
        if matches!(changed, Err(Errno::NODEV)) || self.is_gone() {
            return None;
        }
        let now = memory::oom_kills(&self.memory);
        let new = now.saturating_sub(self.seen);
        self.seen = now;
        Some(new)
    }

    /// Waits for the next kill. `None` when the group is gone.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(&mut self) -> Result<Option<u64>, Error> {
        loop {
            match self.take() {
                Some(0) => {}
                other => return Ok(other),
            }
            let events = match self.memory.version {
                Version::V1 => PollFlags::IN,
                Version::V2 => PollFlags::PRI,
            };
            match rustix::event::poll(&mut [PollFd::new(&self.changes, events)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(at("wait for", "the container's memory")(errno)),
            }
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.memory.file("cgroup.procs", OFlags::RDONLY), Err(Errno::NOENT | Errno::NODEV))
    }
}
