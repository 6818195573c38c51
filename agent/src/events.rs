//! The event loop's sources: epoll, and the ends of child processes as a descriptor.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, FromRawFd, OwnedFd},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

use crate::fault::{Fault, to};

/// How many events one wait returns at most; more wait for the next.
pub(crate) const BATCH: usize = 32;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The control connection.
    Control,
    /// A child process ended.
    Children,
    /// Something happened to a container's memory.
    Memory(u32),
    /// A container asks a name server.
    Names(u32),
    /// A connection to a port came about, or did not.
    Port(u32),
    /// A relay and which of its descriptors.
    Relay(u32, Side),
}

/// A descriptor of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The connection to the monitor.
    Socket,
    /// What the process reads.
    Input,
    /// What the process writes, or its terminal.
    Output,
}

/// The bits that tell the kinds of numbered sources.
const RELAY: u64 = 1 << 63;
const MEMORY: u64 = 1 << 62;
const NAMES: u64 = 1 << 61;
const PORT: u64 = 1 << 60;

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Events(OwnedFd);

impl Events {
    pub(crate) fn new() -> Result<Self, Fault> {
        epoll::create(CreateFlags::CLOEXEC).map(Self).map_err(to("make an epoll instance"))
    }

    /// Tells of every change of `fd`, once each (`EPOLLET`): who is told reads or writes until it would block.
    pub(crate) fn add(&self, fd: impl AsFd, source: Source) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.0, fd, EventData::new_u64(source.number()), flags)
    }

    /// Tells of `fd` as long as there is something to read.
    pub(crate) fn add_reader(&self, fd: impl AsFd, source: Source) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(source.number()), EventFlags::IN)
    }

    /// Tells of these changes of `fd` until they are read.
    pub(crate) fn add_changes(
        &self,
        fd: impl AsFd,
        changes: EventFlags,
        source: Source,
    ) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(source.number()), changes)
    }

    /// Tells no more of `fd`.
    pub(crate) fn remove(&self, fd: impl AsFd) -> Result<(), Errno> {
        epoll::delete(&self.0, fd)
    }

    /// Waits for events, or only looks for some.
    pub(crate) fn wait(
        &self,
        block: bool,
    ) -> Result<impl Iterator<Item = (Source, EventFlags)> + use<>, Fault> {
        let mut space = [MaybeUninit::<Event>::uninit(); BATCH];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if block { None } else { Some(&now) };
        let count = match epoll::wait(&self.0, &mut space, timeout) {
            Ok((events, _)) => events.len(),
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(to("wait for events")(errno)),
        };
        Ok(space.into_iter().take(count).filter_map(|event| {
            // SAFETY: the kernel has filled in the first `count` events.
            let event = unsafe { event.assume_init() };
            let (data, flags) = (event.data, event.flags);
            Source::from_number(data.u64()).map(|source| (source, flags))
        }))
    }
}

impl Source {
    fn number(self) -> u64 {
        match self {
            Source::Control => 0,
            Source::Children => 1,
            Source::Memory(id) => u64::from(id) | MEMORY,
            Source::Names(id) => u64::from(id) | NAMES,
            Source::Port(id) => u64::from(id) | PORT,
            Source::Relay(id, side) => u64::from(id) << 2 | side as u64 | RELAY,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        let id = u32::try_from(number & 0xffff_ffff).ok()?;
        match number {
            0 => Some(Source::Control),
            1 => Some(Source::Children),
            _ if number & MEMORY != 0 => Some(Source::Memory(id)),
            _ if number & NAMES != 0 => Some(Source::Names(id)),
            _ if number & PORT != 0 => Some(Source::Port(id)),
            _ => {
                let side = match number & 3 {
                    0 => Side::Socket,
                    1 => Side::Input,
                    _ => Side::Output,
                };
                u32::try_from(number >> 2 & 0xffff_ffff).ok().map(|id| Source::Relay(id, side))
            }
        }
    }
}

/// A descriptor that is readable when a child has ended (signalfd(2)). Also keeps SIGPIPE from the agent: writes to what
/// nobody reads return an error instead. New processes unblock both.
pub(crate) fn children() -> Result<OwnedFd, Fault> {
    // SAFETY: a zeroed set is what sigemptyset makes, which is called on it anyway; the sets outlive the calls.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        libc::sigaddset(&raw mut set, libc::SIGPIPE);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        fd
    };
    if fd < 0 {
        return Err(to("make a signalfd")(last_error()));
    }
    // SAFETY: signalfd has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes what a signalfd has to say; that it said something is enough.
pub(crate) fn drain(signals: &OwnedFd) {
    let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
    // SIGCHLD is pending once at most.
    let _ = rustix::io::read(signals, &mut record);
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_as_numbers() {
        let relays = [Side::Socket, Side::Input, Side::Output]
            .into_iter()
            .flat_map(|side| [0, 1, 77, u32::MAX].map(|id| Source::Relay(id, side)));
        let others = [0, 5, u32::MAX].map(Source::Memory);
        let names = [0, 5, u32::MAX].map(Source::Names);
        let ports = [0, 5, u32::MAX].map(Source::Port);
        let single = [Source::Control, Source::Children];
        let all = single.into_iter().chain(others).chain(names).chain(ports).chain(relays);
        for source in all {
            assert_eq!(Source::from_number(source.number()), Some(source));
        }
    }
}
