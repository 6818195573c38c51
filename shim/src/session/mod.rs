//! A command in the foreground of a container: its standard streams, terminal and signals are joined to the container's by way of the keeper.
//!
//! ```text
//! launched --Started--> running --Ended--> done        detach keys: away, with the container running
//!     |                    |
//!     +--Failed, signal    +--connection lost: the keeper was killed
//! ```

mod input;

use std::{
    cmp::Ordering,
    io::{self, IsTerminal, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGWINCH};

use self::input::Credit;
use crate::{
    keeper::frames::{Ended, Failed, Frame, FromKeeper, ToKeeper},
    stdio::{RawMode, signals, window_size},
    timeline::{self, Step, Timeline},
};

/// This many SIGINT or SIGTERM kill a program that does not listen to them, as with docker's client; one more gives the container up.
const INSIST: u32 = 3;

/// Why a session ended without the program's exit code.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The container could not be made, or its program could not be run.
    #[error("{}", .0.message)]
    Failed(Failed),
    /// The keeper went away without a word.
    #[error("the container's keeper was killed")]
    Lost,
    /// A signal ended this process before the program ran, or although it runs.
    #[error("signal {0} ended this before the program ended")]
    Signal(i32),
    /// This process's own standard streams or threads.
    #[error("cannot join the standard streams: {0}")]
    Stdio(#[from] io::Error),
}

/// How a session ended.
#[derive(Debug)]
pub enum Outcome {
    /// With the container's program.
    Ended(Ended),
    /// The user left with the detach keys; the container runs on.
    Detached,
}

/// What a session is about.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Standard input is forwarded.
    pub interactive: bool,
    /// The program has a terminal.
    pub terminal: bool,
    /// The keeper that is to be ended by a signal that comes before the program runs. None: it runs already.
    pub starting: Option<u32>,
    /// Signals are for the program.
    pub forward_signals: bool,
}

#[derive(Debug)]
enum Event {
    Keeper(FromKeeper),
    Gone,
    Signal(i32),
    FirstOutput(u64),
    Detach,
}

/// The connection's writing side, which several threads use.
#[derive(Debug, Clone)]
struct Keeper(Arc<Mutex<UnixStream>>);

impl Keeper {
    /// A keeper that is gone is noticed where it is read from.
    fn send(&self, frame: &ToKeeper) -> bool {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame.send(&mut *socket).is_ok()
    }
}

/// The loop and what it knows.
#[derive(Debug)]
pub struct Session<'a> {
    plan: Plan,
    timeline: &'a mut Timeline,
    events: Receiver<Event>,
    to_events: Sender<Event>,
    /// Output may be shown.
    ready: Sender<()>,
    keeper: Keeper,
    credit: Arc<Credit>,
    running: bool,
    insisted: u32,
    size: Option<(u16, u16)>,
    interrupted: Option<i32>,
}

impl<'a> Session<'a> {
    /// A session over this connection, to whose keeper it was said what is wanted. From now on, signals are heard.
    ///
    /// # Errors
    /// [`SessionError::Stdio`].
    pub fn new(
        plan: Plan,
        socket: UnixStream,
        timeline: &'a mut Timeline,
    ) -> Result<Self, SessionError> {
        let (to_events, events) = channel();
        let credit = Arc::new(Credit::default());
        let reader = socket.try_clone()?;
        let (to, given) = (to_events.clone(), Arc::clone(&credit));
        let (ready, is_ready) = channel();
        let runs = plan.starting.is_none();
        thread::spawn(move || hear(reader, &to, &given, runs, &is_ready));
        if plan.forward_signals || plan.starting.is_some() {
            let to = to_events.clone();
            signals::listen(move |signal| to.send(Event::Signal(signal)).is_ok())?;
        }
        Ok(Self {
            plan,
            timeline,
            events,
            to_events,
            ready,
            keeper: Keeper(Arc::new(Mutex::new(socket))),
            credit,
            running: false,
            insisted: 0,
            size: None,
            interrupted: None,
        })
    }

    /// Runs the session to its end.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn run(mut self) -> Result<Outcome, SessionError> {
        let mut raw = None;
        if self.plan.starting.is_none() {
            raw = self.begin()?;
        }
        while let Ok(event) = self.events.recv() {
            match event {
                Event::Keeper(FromKeeper::Started(started)) => {
                    self.timeline.merge(&started.timeline);
                    raw = self.begin()?;
                }
                Event::Keeper(FromKeeper::Failed(failed)) => {
                    return Err(match self.interrupted {
                        Some(signal) => SessionError::Signal(signal),
                        None => SessionError::Failed(failed),
                    });
                }
                Event::Keeper(FromKeeper::Ended(ended)) => {
                    self.timeline.merge(&ended.timeline);
                    return Ok(Outcome::Ended(ended));
                }
                Event::Keeper(FromKeeper::Warning(text)) => {
                    let end = if raw.is_some() { "\r\n" } else { "\n" };
                    // With standard error closed there is nobody to warn.
                    let _ = write!(io::stderr(), "bulkhead: {text}{end}");
                }
                Event::Keeper(FromKeeper::Note(text)) => note(&text),
                Event::Keeper(_) => {}
                Event::FirstOutput(at) => self.timeline.pass_at(Step::FirstOutput, at, None),
                Event::Detach => return Ok(Outcome::Detached),
                Event::Signal(signal) => self.hear_signal(signal)?,
                Event::Gone => break,
            }
        }
        Err(self.interrupted.map_or(SessionError::Lost, SessionError::Signal))
    }

    /// The program runs: the terminal and standard input are its own now.
    fn begin(&mut self) -> Result<Option<RawMode>, SessionError> {
        self.running = true;
        let raw =
            if self.plan.terminal && self.plan.interactive { RawMode::enter()? } else { None };
        // Who answers to what he sees types what no terminal has kept or changed. Nobody waits for this when the keeper is gone.
        let _ = self.ready.send(());
        self.resize();
        if self.plan.interactive {
            let (keeper, credit) = (self.keeper.clone(), Arc::clone(&self.credit));
            let events = self.to_events.clone();
            let detachable = self.plan.terminal;
            thread::spawn(move || {
                let send = |frame: &ToKeeper| keeper.send(frame);
                if input::forward(&mut io::stdin().lock(), send, &credit, detachable) {
                    let _ = events.send(Event::Detach);
                }
            });
        }
        Ok(raw)
    }

    fn hear_signal(&mut self, signal: i32) -> Result<(), SessionError> {
        match (signal, self.plan.starting) {
            (SIGWINCH, _) => self.resize(),
            (_, Some(keeper)) if !self.running => {
                // Its guardian clears up and closes the connection.
                self.interrupted = Some(signal);
                if let Some(pid) = Pid::from_raw(keeper.cast_signed()) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            // The terminal is gone, and with it whoever could ask twice.
            (SIGHUP, Some(_)) => drop(self.keeper.send(&ToKeeper::Stop)),
            (SIGINT | SIGTERM, _) => {
                self.insisted += 1;
                match self.insisted.cmp(&INSIST) {
                    Ordering::Less => drop(self.keeper.send(&ToKeeper::Signal(signal))),
                    Ordering::Equal => drop(self.keeper.send(&ToKeeper::Signal(SIGKILL))),
                    // Not even that helped.
                    Ordering::Greater => return Err(SessionError::Signal(signal)),
                }
            }
            _ => drop(self.keeper.send(&ToKeeper::Signal(signal))),
        }
        Ok(())
    }

    fn resize(&mut self) {
        let size = self.plan.terminal.then(window_size).flatten();
        let size = size.map(|size| (size.rows, size.columns));
        if let (Some((rows, columns)), true) = (size, size != self.size && self.running) {
            self.size = size;
            self.keeper.send(&ToKeeper::Resize(rows, columns));
        }
    }
}

/// Reads what the keeper says; output goes where it belongs from here, so that the loop never waits for a reader. Output of a program that `runs`, or that
/// has started, waits until the session `is_ready` for it, or is no more.
fn hear(
    mut socket: UnixStream,
    events: &Sender<Event>,
    credit: &Credit,
    runs: bool,
    is_ready: &Receiver<()>,
) {
    if runs {
        let _ = is_ready.recv();
    }
    let mut first = true;
    let mut note = || {
        if std::mem::take(&mut first) {
            let _ = events.send(Event::FirstOutput(timeline::now()));
        }
    };
    // A reader that went away is no reason to end the container, or to miss its end.
    while let Ok(Some(frame)) = FromKeeper::receive(&mut socket) {
        match frame {
            FromKeeper::Output(bytes) => {
                if write(io::stdout(), &bytes).is_ok() {
                    note();
                }
            }
            FromKeeper::Error(bytes) => {
                if write(io::stderr(), &bytes).is_ok() {
                    note();
                }
            }
            FromKeeper::Taken(count) => credit.give(usize::try_from(count).unwrap_or(0)),
            other => {
                let starts = matches!(other, FromKeeper::Started(_));
                if events.send(Event::Keeper(other)).is_err() {
                    return;
                }
                if starts {
                    let _ = is_ready.recv();
                }
            }
        }
    }
    let _ = events.send(Event::Gone);
}

/// Tells somebody who watches why it takes a while.
pub fn note(text: &str) {
    if io::stderr().is_terminal() {
        // A terminal that is gone needs no news.
        let _ = writeln!(io::stderr(), "bulkhead: {text}");
    }
}

fn write(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests;
