//! Copies bytes between a guest's streams and this process's standard ones, each direction in a thread of its own: only a
//! thread can wait for a file that others share without changing its mode for them.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
};

use crate::timeline;

/// Bytes that are copied at once.
const CHUNK: usize = 32 << 10;
/// A copying thread calls little.
const STACK: usize = 64 << 10;

/// All relays of a process.
#[derive(Debug)]
pub(crate) struct Relays {
    wake: Arc<OwnedFd>,
    outputs: Vec<Arc<Output>>,
    first: Arc<AtomicU64>,
}

/// What is known of one that copies the guest's bytes.
#[derive(Debug, Default)]
struct Output {
    /// Which of the process's streams it is.
    stream: usize,
    ended: AtomicBool,
    /// Bytes that have gone on.
    copied: AtomicU64,
    /// It waits for this process's side.
    writes: AtomicBool,
    /// When it last got something, or was to get what is left (`CLOCK_MONOTONIC`, nanoseconds).
    last: AtomicU64,
}

impl Relays {
    /// None yet.
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { wake: Arc::new(wake), outputs: Vec::new(), first: Arc::default() })
    }

    /// Readable when an output has ended; see [`Relays::clear`].
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the descriptor wait again.
    pub(crate) fn clear(&self) {
        // Nothing to read is as good.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
    }

    /// When the first output arrived.
    pub(crate) fn first_output(&self) -> Option<u64> {
        Some(self.first.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// Copies standard input into `stream` until it ends, then closes that half.
    pub(crate) fn input(&self, stream: UnixStream) -> io::Result<()> {
        spawn("input", move || {
            // Either side may end first; in both cases no more input comes.
            copy(rustix::stdio::stdin(), stream.as_fd(), |_, _| {});
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    /// Copies `stream`, the process's main one (0) or its standard error (1), to `to`, which stays open as long as this
    /// process, until it ends. When nobody takes more, that half is closed, so that the guest's program learns of it.
    pub(crate) fn output(
        &mut self,
        which: usize,
        stream: UnixStream,
        to: BorrowedFd<'static>,
    ) -> io::Result<()> {
        let output = Arc::new(Output { stream: which, ..Output::default() });
        output.last.store(timeline::now(), Ordering::Relaxed);
        self.outputs.push(Arc::clone(&output));
        let (wake, first) = (Arc::clone(&self.wake), Arc::clone(&self.first));
        spawn("output", move || {
            copy(stream.as_fd(), to, |writes, length| {
                output.writes.store(writes, Ordering::Relaxed);
                if !writes {
                    output.copied.fetch_add(length, Ordering::Release);
                } else {
                    let now = timeline::now();
                    output.last.store(now, Ordering::Relaxed);
                    // Only the first time counts.
                    let _ = first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                }
            });
            let _ = stream.shutdown(Shutdown::Read);
            output.ended.store(true, Ordering::Release);
            let _ = rustix::io::write(&*wake, &1_u64.to_ne_bytes());
        })
    }

    /// The process has ended: the guest has from now on to send what is left, however long ago it sent something.
    pub(crate) fn expect_rest(&self) {
        let now = timeline::now();
        self.outputs.iter().for_each(|output| output.last.store(now, Ordering::Relaxed));
    }

    /// Whether all that the process has `written` to its streams has gone on, or those have ended, or the guest has sent
    /// nothing for `quiet` while they only waited for it.
    pub(crate) fn drained(&self, written: [u64; 2], quiet: Duration) -> bool {
        let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
        let now = timeline::now();
        self.outputs.iter().all(|output| {
            let wanted = written.get(output.stream).copied().unwrap_or_default();
            output.ended.load(Ordering::Acquire)
                || output.copied.load(Ordering::Acquire) >= wanted
                || !output.writes.load(Ordering::Relaxed)
                    && now.saturating_sub(output.last.load(Ordering::Relaxed)) > quiet
        })
    }
}

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(STACK).spawn(body).map(drop)
}

/// Why nothing more is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// The source has ended, and all of it was written.
    All,
    /// The source failed.
    Failed,
    /// The other side takes no more.
    Refused,
}

/// Copies until either side ends; `writing` is told before (true) and after each chunk of so many bytes is written.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut writing: impl FnMut(bool, u64),
) -> Copied {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match rustix::io::read(from, &mut chunk) {
            Ok(0) => return Copied::All,
            Ok(length) => length,
            Err(errno) if wait(errno, from, PollFlags::IN) => continue,
            // A terminal without its other side says EIO.
            Err(_) => return Copied::Failed,
        };
        writing(true, length as u64);
        let mut rest = chunk.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(errno) if wait(errno, to, PollFlags::OUT) => {}
                Err(_) => return Copied::Refused,
            }
        }
        writing(false, length as u64);
    }
}

/// Whether it makes sense to try again, once the other side is ready: somebody may have made a shared file non-blocking.
fn wait(errno: Errno, fd: BorrowedFd<'_>, ready: PollFlags) -> bool {
    match errno {
        Errno::INTR => true,
        Errno::AGAIN => poll(&mut [PollFd::from_borrowed_fd(fd, ready)], None).is_ok(),
        _ => false,
    }
}

/// Whether `fd` is `/dev/null`, for which no stream is needed.
pub(crate) fn is_null(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|facts| {
        let kind = rustix::fs::FileType::from_raw_mode(facts.st_mode);
        let device = (rustix::fs::major(facts.st_rdev), rustix::fs::minor(facts.st_rdev));
        kind == rustix::fs::FileType::CharacterDevice && device == (1, 3)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        os::fd::AsRawFd,
    };

    use super::*;

    /// A descriptor for the rest of the process.
    fn forever(file: impl Into<OwnedFd>) -> BorrowedFd<'static> {
        let fd = file.into();
        let number = fd.as_raw_fd();
        std::mem::forget(fd);
        // SAFETY: it was just leaked, and nobody else closes it.
        unsafe { BorrowedFd::borrow_raw(number) }
    }

    fn until(relays: &Relays, written: u64, quiet: Duration) {
        while !relays.drained([written; 2], quiet) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn all_bytes_arrive_before_it_is_drained() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut sink, out) = UnixStream::pair().unwrap();
        let mut relays = Relays::new().unwrap();
        relays.output(0, ours, forever(out)).unwrap();
        let data = vec![7; 1 << 20];
        let sent = data.clone();
        let writer = thread::spawn(move || theirs.write_all(&sent).unwrap());
        let mut got = vec![0; data.len()];
        sink.read_exact(&mut got).unwrap();
        writer.join().unwrap();
        until(&relays, data.len() as u64, Duration::MAX);
        assert!(got == data && relays.first_output().is_some());
    }

    #[test]
    fn a_stream_that_stays_open_is_drained_when_it_is_quiet() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut relays = Relays::new().unwrap();
        relays.output(0, ours, forever(File::create("/dev/null").unwrap())).unwrap();
        assert!(!relays.drained([1; 2], Duration::from_secs(3600)));
        until(&relays, u64::MAX, Duration::from_millis(5));
    }

    #[test]
    fn the_last_words_after_a_long_silence_are_waited_for() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut relays = Relays::new().unwrap();
        relays.output(0, ours, forever(File::create("/dev/null").unwrap())).unwrap();
        // As if it had been silent as long as the host runs.
        relays.outputs[0].last.store(0, Ordering::Relaxed);
        let quiet = Duration::from_nanos(timeline::now() / 2);
        assert!(relays.drained([1; 2], quiet));
        relays.expect_rest();
        assert!(!relays.drained([1; 2], quiet));
    }

    #[test]
    fn a_full_sink_closes_the_stream() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut relays = Relays::new().unwrap();
        relays
            .output(0, ours, forever(File::options().write(true).open("/dev/full").unwrap()))
            .unwrap();
        theirs.write_all(b"x").unwrap();
        until(&relays, u64::MAX, Duration::MAX);
        assert_eq!(theirs.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_sink_that_others_made_non_blocking_loses_nothing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut sink, out) = UnixStream::pair().unwrap();
        out.set_nonblocking(true).unwrap();
        let mut relays = Relays::new().unwrap();
        relays.output(0, ours, forever(out)).unwrap();
        let writer = thread::spawn(move || theirs.write_all(&vec![1; 2 << 20]).unwrap());
        thread::sleep(Duration::from_millis(20));
        let mut got = vec![0; 2 << 20];
        sink.read_exact(&mut got).unwrap();
        writer.join().unwrap();
    }

    #[test]
    fn null_is_known() {
        assert!(is_null(File::open("/dev/null").unwrap().as_fd()));
        assert!(!is_null(File::open("/dev/zero").unwrap().as_fd()));
    }
}
