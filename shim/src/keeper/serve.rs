//! The keeper's loop while the container runs: one thread, one poll(2).

use std::{
    cmp::Ordering,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid},
};

use super::{
    KeeperError,
    clients::Client,
    frames::{Ended, FromKeeper, MAX_PAYLOAD, ToKeeper},
    input::Input,
    make::Running,
    process::Kept,
    streams::{Read, read},
};
use crate::{
    logs::Stream,
    monitor::sockets::{REST, is_starved},
    timeline::Step,
};

/// How long the streams' last bytes may take after the container's process has ended.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a program may take to end that was asked to, as `docker stop` has it.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long clients may take to hear of the end.
const FAREWELL: Duration = Duration::from_secs(30);
/// More clients than this at once are refused.
const MAX_CLIENTS: usize = 256;

/// The loop.
#[derive(Debug)]
pub(super) struct Serve {
    kept: Kept,
    running: Running,
    input: Input,
    clients: Vec<Client>,
    next_client: u64,
    pidfd: Option<OwnedFd>,
    exit: Option<u8>,
    /// When the streams are given up after the end.
    drained_by: Option<Instant>,
    /// When a program that was asked to end is killed.
    killed_at: Option<Instant>,
    /// Until when no new client is taken.
    rests: Option<Instant>,
    buffer: Vec<u8>,
}

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Child,
    Source(usize),
    Input,
    Listener,
    Client(usize),
}

impl Serve {
    pub(super) fn new(kept: Kept, mut running: Running, primary: Client) -> Self {
        let input = Input::new(running.streams.input.take());
        Self {
            kept,
            running,
            input,
            clients: vec![primary],
            next_client: 1,
            pidfd: None,
            exit: None,
            drained_by: None,
            killed_at: None,
            rests: None,
            buffer: vec![0; MAX_PAYLOAD],
        }
    }

    /// Serves until the container has ended and everybody knows.
    pub(super) fn run(mut self) -> Result<(), KeeperError> {
        let pidfd = pidfd_open(self.running.pid, PidfdFlags::empty())
            .map_err(KeeperError::io("watch the container"))?;
        self.pidfd = Some(pidfd);
        let code = loop {
            if let Some(code) = self.exit
                && (self.running.streams.sources.is_empty() || is_over(self.drained_by))
            {
                break code;
            }
            self.step()?;
        };
        // Whoever starts it again, once its end is written down, takes them.
        self.running.ports.clear();
        let ended = self.kept.finish(code);
        self.say_farewell(&ended);
        Ok(())
    }

    fn step(&mut self) -> Result<(), KeeperError> {
        for (index, flags) in self.wait()? {
            match index {
                Ready::Child => self.reap()?,
                Ready::Source(number) => self.read_source(number),
                Ready::Input => {}
                Ready::Listener => self.accept(),
                Ready::Client(number) => self.serve_client(number, flags),
            }
        }
        for (owner, count) in self.input.flush() {
            if let Some(client) = self.clients.iter_mut().find(|client| client.number == owner) {
                client.taken(count);
            }
        }
        if is_over(self.killed_at) {
            self.killed_at = None;
            self.signal(Signal::KILL.as_raw());
        }
        self.dismiss();
        self.running.streams.sources.retain(|source| !source.ended);
        Ok(())
    }

    /// Waits for something to do.
    fn wait(&self) -> Result<Vec<(Ready, PollFlags)>, KeeperError> {
        let slow = self.clients.iter().any(|client| client.wants_output() && client.is_slow());
        let mut waits: Vec<(Ready, BorrowedFd<'_>, PollFlags)> = Vec::new();
        if let (Some(pidfd), None) = (&self.pidfd, self.exit) {
            waits.push((Ready::Child, pidfd.as_fd(), PollFlags::IN));
        }
        if !slow {
            let sources = self.running.streams.sources.iter().enumerate();
            waits.extend(
                sources.map(|(n, source)| (Ready::Source(n), source.fd.as_fd(), PollFlags::IN)),
            );
        }
        if let Some(fd) = self.input.waits_for() {
            waits.push((Ready::Input, fd.as_fd(), PollFlags::OUT));
        }
        let rests = self.rests.filter(|_| !is_over(self.rests));
        if rests.is_none() {
            waits.push((Ready::Listener, self.running.listener.as_fd(), PollFlags::IN));
        }
        for (number, client) in self.clients.iter().enumerate() {
            let out = if client.has_pending() { PollFlags::OUT } else { PollFlags::empty() };
            waits.push((Ready::Client(number), client.socket.as_fd(), PollFlags::IN | out));
        }
        let mut fds: Vec<PollFd<'_>> =
            waits.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let deadline = [self.drained_by, self.killed_at, rests].into_iter().flatten().min();
        match poll(&mut fds, timeout(deadline).as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(KeeperError::io("wait")(error)),
        }
        let ready = waits.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((what, _, _), fd)| (*what, fd.revents())).collect())
    }

    fn reap(&mut self) -> Result<(), KeeperError> {
        let status = match waitid(WaitId::Pid(self.running.pid), WaitIdOptions::EXITED) {
            Ok(Some(status)) => status,
            Ok(None) | Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(KeeperError::io("wait for the container")(error)),
        };
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
            (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            (None, None) => u8::MAX,
        };
        self.exit = Some(code);
        self.killed_at = None;
        self.drained_by = Some(Instant::now() + DRAIN);
        Ok(())
    }

    fn read_source(&mut self, number: usize) {
        let Some(source) = self.running.streams.sources.get_mut(number) else { return };
        let stream = source.stream;
        match read(source, &mut self.buffer) {
            Read::Nothing => {}
            Read::End => source.ended = true,
            Read::Bytes(length) => {
                self.kept.timeline.pass(Step::FirstOutput);
                let bytes = self.buffer.get(..length).unwrap_or_default();
                let warning = self.running.log.append(stream, bytes, Timestamp::now()).err();
                let frame = match stream {
                    Stream::Stderr => FromKeeper::Error(bytes.to_vec()),
                    _ => FromKeeper::Output(bytes.to_vec()),
                };
                self.tell(&frame);
                if let Some(warning) = warning {
                    self.warn(warning.to_string());
                }
            }
        }
    }

    /// Says something to all who are attached, and in the container's state.
    fn warn(&mut self, text: String) {
        self.tell(&FromKeeper::Warning(text.clone()));
        self.kept.state.warnings.push(text);
        // On a full disk this fails too.
        let _ = self.kept.place.write_state(&self.kept.state);
    }

    fn tell(&mut self, frame: &FromKeeper) {
        for client in self.clients.iter_mut().filter(|client| client.wants_output()) {
            client.send(frame);
        }
    }

    fn accept(&mut self) {
        let socket = match self.running.listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Whoever has gone again meanwhile is nobody's loss; whoever cannot be taken waits.
                self.rests = is_starved(&error).then(|| Instant::now() + REST);
                return;
            }
        };
        if self.clients.len() >= MAX_CLIENTS {
            return;
        }
        if let Ok(client) = Client::new(self.next_client, socket) {
            self.next_client += 1;
            self.clients.push(client);
        }
    }

    fn serve_client(&mut self, number: usize, flags: PollFlags) {
        let Some(client) = self.clients.get_mut(number) else { return };
        if flags.contains(PollFlags::OUT) {
            client.flush();
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let owner = client.number;
        let may_feed = client.gives_input();
        for frame in client.read(&mut self.buffer) {
            match frame {
                ToKeeper::Input(bytes) if may_feed => self.input.push(owner, &bytes),
                ToKeeper::InputEnd if may_feed => self.end_input(),
                ToKeeper::Resize(rows, columns) => self.running.streams.resize(rows, columns),
                ToKeeper::Signal(signal) => self.signal(signal),
                ToKeeper::Stop => {
                    self.signal(self.kept.definition.stop_signal);
                    self.killed_at = Some(Instant::now() + STOP_TIMEOUT);
                }
                ToKeeper::Hello(_) | ToKeeper::Input(_) | ToKeeper::InputEnd => {}
            }
        }
    }

    /// The input of somebody who was attached has ended; the container's does if it was to be his only.
    fn end_input(&mut self) {
        if self.kept.definition.stdin_once && !self.kept.definition.terminal {
            self.input.end();
        }
    }

    /// Forgets clients that are gone.
    fn dismiss(&mut self) {
        let feeder_gone = self
            .clients
            .iter()
            .any(|client| client.is_gone() && client.primary && client.gives_input());
        self.clients.retain(|client| !client.is_gone());
        if feeder_gone {
            self.end_input();
        }
    }

    fn signal(&self, signal: i32) {
        if self.exit.is_some() {
            return;
        }
        let root = self.kept.registry.lifecycle();
        let sent =
            root.get(&self.kept.place.id).and_then(|mut container| container.kill(signal, false));
        // A sandbox that cannot be asked any more still has its process here.
        if sent.is_err() && signal.cmp(&Signal::KILL.as_raw()) == Ordering::Equal {
            let _ = kill_process(self.running.pid, Signal::KILL);
        }
    }

    fn say_farewell(&mut self, ended: &Ended) {
        let frame = FromKeeper::Ended(ended.clone());
        // Those who came while the container was being removed.
        self.accept();
        for client in &mut self.clients {
            client.send(&frame);
        }
        let deadline = Instant::now() + FAREWELL;
        while self.clients.iter().any(Client::has_pending) && !is_over(Some(deadline)) {
            let mut fds: Vec<PollFd<'_>> = self
                .clients
                .iter()
                .filter(|client| client.has_pending())
                .map(|client| PollFd::new(&client.socket, PollFlags::OUT))
                .collect();
            if poll(&mut fds, timeout(Some(deadline)).as_ref()).is_err() {
                return;
            }
            self.clients.iter_mut().for_each(Client::flush);
        }
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

fn timeout(deadline: Option<Instant>) -> Option<Timespec> {
    let left = deadline?.saturating_duration_since(Instant::now());
    Timespec::try_from(left).ok()
}
