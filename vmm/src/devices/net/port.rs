//! The host's side of a network device, and the epoll instance by which the event loop hears of it.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
    io::Errno,
};

use crate::devices::virtio::IoVectors;

/// What the port is watched for: it is read until it has nothing, and written until it takes nothing.
const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::ET);

/// Where frames come from and go to. Each read and each write is one frame, behind its header; none of them waits.
pub(super) trait Port: fmt::Debug + AsFd + Send + Sync {
    /// Says what the driver takes: its feature bits (virtio 1.3, 5.1.3).
    ///
    /// # Errors
    /// The host refuses.
    fn accept(&self, features: u64) -> io::Result<()>;
}

/// Why no frame went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not now: nothing to read, or no room.
    Later,
    /// The interface is there and carries nothing: it is down.
    Down,
    /// It takes no such frame.
    Frame,
    /// There is no interface any more.
    Gone,
}

/// A port of a running device. Dropping it ends the watch and leaves the port open.
#[derive(Debug)]
pub(super) struct Link {
    port: Arc<dyn Port>,
    epoll: Arc<OwnedFd>,
}

impl Link {
    /// Begins to watch `port`.
    pub(super) fn new(port: Arc<dyn Port>, epoll: Arc<OwnedFd>) -> io::Result<Self> {
        epoll::add(&epoll, &port, EventData::new_u64(0), WATCHED)?;
        Ok(Self { port, epoll })
    }

    /// Whether there may be frames, and whether there may be room for some.
    pub(super) fn look(&self) -> (bool, bool) {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, &mut events[..], Some(&now)) {
            Ok(0) => (false, false),
            Ok(_) => {
                let [epoll::Event { flags, .. }] = events;
                // Beside them: an error or an end, which reading tells.
                let out = EventFlags::OUT;
                (!flags.difference(out).is_empty(), flags.contains(out))
            }
            Err(_) => (true, true),
        }
    }

    /// Asks to hear when there is room. A tap tells only whom it was asked by since it was full.
    pub(super) fn wait_for_room(&self) {
        // Where it fails the next look that reading makes necessary is one for room too.
        let _ = epoll::modify(&self.epoll, &self.port, EventData::new_u64(0), WATCHED);
    }

    /// Takes a frame and its header; the bytes of it that there was room for.
    pub(super) fn read(&self, into: &IoVectors<'_>) -> Result<usize, Refusal> {
        let (fd, vectors) = (self.port.as_fd().as_raw_fd(), into.as_slice());
        // SAFETY: the vectors are guest memory that is mapped, or memory that `into` borrows exclusively, for longer than the call; no Rust
        // reference to the guest's exists.
        let count = retry(|| unsafe { libc::readv(fd, vectors.as_ptr(), length(vectors)) })?;
        // The end of a stream of frames, which a tap does not have.
        if count == 0 { Err(Refusal::Gone) } else { Ok(count) }
    }

    /// Gives a frame and its header.
    pub(super) fn write(&self, from: &IoVectors<'_>) -> Result<usize, Refusal> {
        let (fd, vectors) = (self.port.as_fd().as_raw_fd(), from.as_slice());
        // SAFETY: as for reading.
        retry(|| unsafe { libc::writev(fd, vectors.as_ptr(), length(vectors)) })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The port stays open for the next activation.
        let _ = epoll::delete(&self.epoll, &self.port);
    }
}

/// At most 64 (`IoVectors`).
fn length(vectors: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX)
}

fn retry(mut call: impl FnMut() -> isize) -> Result<usize, Refusal> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        return Err(match Errno::from_io_error(&error) {
            Some(Errno::INTR) => continue,
            Some(Errno::AGAIN) => Refusal::Later,
            Some(Errno::IO) => Refusal::Down,
            // A tap's interface was deleted; the other end of a socket was closed.
            Some(Errno::BADFD | Errno::PIPE | Errno::CONNRESET) => Refusal::Gone,
            _ => Refusal::Frame,
        });
    }
}
