//! The host's side: the epoll instance that watches the Unix sockets, the listening socket, and the line with which a host's
//! connection begins.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
};

use super::table::Token;

/// How long a host's connection may take to say where it wants to.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest such line in bytes, with its newline: `CONNECT 4294967295\n` and some blanks.
const GREETING: usize = 32;
/// Events of one look.
pub(super) const EVENTS: usize = 64;

/// What a connection's socket is watched for.
const CONNECTION: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// What happened to the socket of a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readiness {
    pub(super) token: Token,
    pub(super) flags: EventFlags,
}

/// What a host's connection says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Not all of it yet.
    Incomplete,
    /// It wants this port of the guest.
    Port(u32),
    /// It is no greeting, or there will be none.
    Bad,
}

/// Takes the greeting from `socket` and leaves what follows it. `ended`: there will be no more than what is there.
pub(super) fn greeting(socket: impl AsFd, ended: bool) -> Greeting {
    let mut line = [0; GREETING];
    let seen = match rustix::net::recv(&socket, &mut line, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((count, _)) => count,
        Err(Errno::AGAIN | Errno::INTR) => 0,
        Err(_) => return Greeting::Bad,
    };
    let Some(length) = line[..seen].iter().position(|byte| *byte == b'\n') else {
        return if ended || seen == GREETING { Greeting::Bad } else { Greeting::Incomplete };
    };
    let taken = rustix::net::recv(&socket, &mut line[..=length], RecvFlags::DONTWAIT);
    if !taken.is_ok_and(|(count, _)| count == length + 1) {
        return Greeting::Bad;
    }
    let port = std::str::from_utf8(&line[..length])
        .ok()
        .and_then(|line| line.strip_prefix("CONNECT "))
        .and_then(|port| port.trim_end().parse().ok());
    port.map_or(Greeting::Bad, Greeting::Port)
}

/// Connects to a Unix socket without waiting for room in its backlog.
pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Watches sockets for one activation of the device; what is closed is watched no more.
#[derive(Debug)]
pub(super) struct Watch<E: AsFd, L: AsFd> {
    epoll: E,
    listener: L,
    timer: OwnedFd,
    timeout: Duration,
    deadlines: VecDeque<(Instant, Token)>,
}

impl<E: AsFd, L: AsFd> Watch<E, L> {
    /// Begins to watch `listener`; its connections have `timeout` for their greetings.
    pub(super) fn new(epoll: E, listener: L, timeout: Duration) -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(Token::TIMER.encode()), edge)?;
        epoll::add(&epoll, &listener, EventData::new_u64(Token::LISTENER.encode()), edge)?;
        Ok(Self { epoll, listener, timer, timeout, deadlines: VecDeque::new() })
    }

    /// Watches a connection's socket, edge-triggered.
    pub(super) fn add(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token.encode()), CONNECTION)?)
    }

    /// Gives a watched socket another token.
    pub(super) fn rename(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token.encode()), CONNECTION)?)
    }

    /// What happened since the last look, at most [`EVENTS`] things.
    pub(super) fn look(&self) -> impl Iterator<Item = Readiness> + use<E, L> {
        let nothing = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [nothing; EVENTS];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error means that nothing is known; what is ready is reported again.
        let count = epoll::wait(&self.epoll, &mut events[..], Some(&now)).unwrap_or(0);
        events.into_iter().take(count).map(|event| {
            let epoll::Event { flags, data } = event;
            Readiness { token: Token::decode(data.u64()), flags }
        })
    }

    /// Takes a connection that waits on the listening socket.
    pub(super) fn accept(&self) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::accept_with(&self.listener, flags).ok()
    }

    /// Gives a new connection a time limit for its greeting.
    pub(super) fn limit(&mut self, token: Token) {
        self.deadlines.push_back((Instant::now() + self.timeout, token));
        if self.deadlines.len() == 1 {
            self.arm(self.timeout);
        }
    }

    /// The next connection whose limit has passed.
    pub(super) fn expired(&mut self) -> Option<Token> {
        let (deadline, token) = *self.deadlines.front()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.deadlines.pop_front();
            return Some(token);
        }
        self.arm(left);
        None
    }

    fn arm(&self, after: Duration) {
        let it_value = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let time = Itimerspec { it_interval, it_value };
        // It cannot fail: the descriptor is a timer and the time is valid.
        let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time);
    }
}

impl<E: AsFd, L: AsFd> Drop for Watch<E, L> {
    fn drop(&mut self) {
        // The listening socket stays open for the next activation.
        let _ = epoll::delete(&self.epoll, &self.listener);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::devices::vsock::table::Table;

    #[test]
    fn connections_that_do_not_greet_in_time_expire_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut watch = Watch::new(&epoll, &listener, Duration::from_millis(20)).unwrap();
        let mut table = Table::<()>::default();
        let tokens = [table.reserve().unwrap(), table.reserve().unwrap()];
        for token in tokens {
            watch.limit(token);
        }
        let mut expired = Vec::new();
        while expired.len() < tokens.len() {
            // The timer's event comes each time that it is armed anew.
            let mut events =
                [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }];
            assert_eq!(epoll::wait(&epoll, &mut events[..], None).unwrap(), 1);
            let [epoll::Event { data, .. }] = events;
            assert_eq!(Token::decode(data.u64()), Token::TIMER);
            expired.extend(std::iter::from_fn(|| watch.expired()));
        }
        assert_eq!(expired, tokens);
        assert_eq!(watch.expired(), None);
    }

    #[test]
    fn a_greeting_is_one_short_line() {
        let say = |line: &str, ended| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            io::Write::write_all(&mut ours, line.as_bytes()).unwrap();
            greeting(theirs, ended)
        };
        assert_eq!(say("CONNECT 1024\n", false), Greeting::Port(1024));
        assert_eq!(say("CONNECT 4294967295 \r\nmore", true), Greeting::Port(u32::MAX));
        assert_eq!(say("CONNECT 10", false), Greeting::Incomplete);
        assert_eq!(say("CONNECT 10", true), Greeting::Bad);
        assert_eq!(say("CONNECT +\n", false), Greeting::Bad);
        assert_eq!(say("connect 1\n", false), Greeting::Bad);
        assert_eq!(say("CONNECT 00000000000000000000000001\n", false), Greeting::Bad);
    }
}
