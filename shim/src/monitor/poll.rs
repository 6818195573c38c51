//! The event loop's sources.

use std::{
    cell::RefCell,
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

use super::sockets::{REST, is_starved};

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
pub(super) struct Poll {
    epoll: OwnedFd,
    /// Listeners that are left alone until then.
    resting: RefCell<Vec<(Source, Instant)>>,
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, resting: RefCell::default() })
    }

    /// The next connection of a listener that was added; none: there is none now. One that waits and cannot be taken makes no events for a while:
    /// to ask for it again and again would help nobody.
    pub(super) fn accept<L: AsFd, T>(
        &self,
        listener: &L,
        source: Source,
        accept: impl FnOnce(&L) -> io::Result<T>,
    ) -> Option<T> {
        let accepted = accept(listener);
        let starved = accepted.as_ref().err().is_some_and(is_starved);
        let mut resting = self.resting.borrow_mut();
        let rested = resting.iter().any(|(other, _)| *other == source);
        match (rested, starved) {
            (false, true) => {
                self.change(listener, source, EventFlags::empty());
                resting.push((source, Instant::now() + REST));
            }
            (true, false) => {
                self.change(listener, source, EventFlags::IN);
                resting.retain(|(other, _)| *other != source);
            }
            // Its next turn is set already.
            _ => {}
        }
        accepted.ok()
    }

    pub(super) fn add(&self, fd: impl AsFd, source: Source, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(source.number()), flags)?)
    }

    pub(super) fn change(&self, fd: impl AsFd, source: Source, flags: EventFlags) {
        // It was added, and the flags are right.
        let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(source.number()), flags);
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        // It may be gone by itself.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for events, until `deadline` at most.
    pub(super) fn wait(
        &self,
        deadline: Option<Instant>,
    ) -> io::Result<impl Iterator<Item = (Source, EventFlags)> + use<>> {
        let mut space = [MaybeUninit::<Event>::uninit(); BATCH];
        let rested = self.resting.borrow().iter().map(|(_, until)| *until).min();
        let deadline = deadline.into_iter().chain(rested).min();
        let left = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let count = match epoll::wait(&self.epoll, &mut space, left.as_ref()) {
            Ok((events, _)) => events.len(),
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let events = space.into_iter().take(count).filter_map(|event| {
            // SAFETY: the kernel has filled in the first `count` events.
            let event = unsafe { event.assume_init() };
            let (data, flags) = (event.data, event.flags);
            Source::from_number(data.u64()).map(|source| (source, flags))
        });
        Ok(events.chain(self.rested()))
    }

    /// The listeners that have been left alone for long enough, until they are asked.
    fn rested(&self) -> Vec<(Source, EventFlags)> {
        let now = Instant::now();
        let mut resting = self.resting.borrow_mut();
        let over = resting.iter_mut().filter(|(_, until)| *until <= now);
        over.map(|(source, until)| {
            *until = now + REST;
            (*source, EventFlags::IN)
        })
        .collect()
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
    use std::os::unix::net::{UnixListener, UnixStream};

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

    #[test]
    fn a_connection_that_cannot_be_taken_is_asked_for_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let poll = Poll::new().unwrap();
        poll.add(&listener, Source::Listener, EventFlags::IN).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let wait = |long: Duration| {
            let until = Instant::now() + long;
            poll.wait(Some(until)).unwrap().map(|(source, _)| source).collect::<Vec<_>>()
        };
        let long = Duration::from_secs(100);
        let full = |_: &UnixListener| Err::<(), _>(Errno::MFILE.into());
        for _ in 0..3 {
            let asked = Instant::now();
            assert_eq!(wait(long), [Source::Listener]);
            assert!(poll.accept(&listener, Source::Listener, full).is_none());
            // The first time there is an event at once.
            let rests = poll.resting.borrow()[0].1;
            assert!(rests > asked && wait(Duration::ZERO).is_empty() || Instant::now() >= rests);
        }
        assert_eq!(wait(long), [Source::Listener]);
        assert!(poll.accept(&listener, Source::Listener, UnixListener::accept).is_some());
        assert!(wait(Duration::ZERO).is_empty() && poll.resting.borrow().is_empty());
        // Other failures are no reason to rest.
        let _client = UnixStream::connect(&path).unwrap();
        let gone = |_: &UnixListener| Err::<(), _>(Errno::CONNABORTED.into());
        assert!(poll.accept(&listener, Source::Listener, gone).is_none());
        assert_eq!(wait(long), [Source::Listener]);
    }
}
