//! The event loop's sources.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

/// Events of one wait; more come with the next.
const BATCH: usize = 32;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The pipe to the process that made the monitor.
    Caller,
    /// The pipe to the container's owner.
    Owner,
    /// A signal.
    Signal,
    /// The VMM said something or ended.
    Vmm,
    /// The agent's first connection.
    Control,
    /// The agent's messages.
    Agent,
    /// A new stream from the guest.
    Streams,
    /// A stream that has yet to say which it is.
    Hello(u32),
    /// A relay of the container's own streams ended.
    Relay,
    /// A new client.
    Listener,
    /// A client.
    Client(u32),
    /// A name server.
    Name(u32),
    /// A connection to the pod's loopback addresses.
    Ports,
}

impl Source {
    fn number(self) -> u64 {
        match self {
            Source::Caller => 0,
            Source::Signal => 1,
            Source::Vmm => 2,
            Source::Control => 3,
            Source::Agent => 4,
            Source::Streams => 5,
            Source::Relay => 6,
            Source::Listener => 7,
            Source::Owner => 8,
            Source::Ports => 9,
            Source::Hello(id) => 1 << 32 | u64::from(id),
            Source::Client(id) => 2 << 32 | u64::from(id),
            Source::Name(id) => 3 << 32 | u64::from(id),
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        let id = u32::try_from(number & 0xffff_ffff).ok()?;
        Some(match (number >> 32, number) {
            (1, _) => Source::Hello(id),
            (2, _) => Source::Client(id),
            (3, _) => Source::Name(id),
            (_, 0) => Source::Caller,
            (_, 1) => Source::Signal,
            (_, 2) => Source::Vmm,
            (_, 3) => Source::Control,
            (_, 4) => Source::Agent,
            (_, 5) => Source::Streams,
            (_, 6) => Source::Relay,
            (_, 7) => Source::Listener,
            (_, 8) => Source::Owner,
            (_, 9) => Source::Ports,
            _ => return None,
        })
    }
}

/// An epoll instance; every source is level-triggered.
#[derive(Debug)]
pub(super) struct Poll(OwnedFd);

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub(super) fn add(&self, fd: impl AsFd, source: Source, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(source.number()), flags)?)
    }

    pub(super) fn change(&self, fd: impl AsFd, source: Source, flags: EventFlags) {
        // It was added, and the flags are right.
        let _ = epoll::modify(&self.0, fd, EventData::new_u64(source.number()), flags);
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        // It may be gone by itself.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits for events, until `deadline` at most.
    pub(super) fn wait(
        &self,
        deadline: Option<Instant>,
    ) -> io::Result<impl Iterator<Item = (Source, EventFlags)> + use<>> {
        let mut space = [MaybeUninit::<Event>::uninit(); BATCH];
        let left = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let count = match epoll::wait(&self.0, &mut space, left.as_ref()) {
            Ok((events, _)) => events.len(),
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        Ok(space.into_iter().take(count).filter_map(|event| {
            // SAFETY: the kernel has filled in the first `count` events.
            let event = unsafe { event.assume_init() };
            let (data, flags) = (event.data, event.flags);
            Source::from_number(data.u64()).map(|source| (source, flags))
        }))
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_as_numbers() {
        for source in [
            Source::Caller,
            Source::Signal,
            Source::Vmm,
            Source::Control,
            Source::Agent,
            Source::Streams,
            Source::Relay,
            Source::Listener,
            Source::Owner,
            Source::Ports,
            Source::Hello(0),
            Source::Hello(u32::MAX),
            Source::Client(0),
            Source::Client(77),
        ] {
            assert_eq!(Source::from_number(source.number()), Some(source));
        }
        assert_eq!(Source::from_number(99), None);
    }
}
