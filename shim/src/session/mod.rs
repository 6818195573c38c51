//! One container from its microVM's start to its program's end, as the process in the foreground sees it: a single
//! loop over [`Event`]s.
//!
//! ```text
//! started --agent connects--> connected --ready--> creating --replies to create and start--> running --exited, streams ended--> done
//! ```

use std::{
    cmp::Ordering,
    io,
    sync::mpsc::{Receiver, Sender},
    time::{Duration, Instant},
};

use bulkhead_protocol::{
    Call, Create, ExitStatus, Exited, FailureKind, Message, Reply, Target, Token, VERSION,
};
use bulkhead_vmm::api::{End, FromVmm};
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGWINCH};

use crate::{
    sandbox::{Agent, AgentError, Event},
    stdio::{self, RawMode, window_size},
    timeline::{Step, Timeline},
};

/// How long the streams' last bytes may take after the program ended.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a machine may take to say how it ended after its agent has gone.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a program may take to end after the terminal closed, as `docker stop` has it.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// This many SIGINT or SIGTERM kill a program that does not listen to them, as with docker's client; one more gives the guest up.
const INSIST: u32 = 3;

/// Why a session ended without the program's exit code.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The guest did not answer in time.
    #[error(
        "the guest did not answer within {0} s; see its console with --console-log FILE, or set BULKHEAD_BOOT_TIMEOUT"
    )]
    Timeout(u64),
    /// The machine ended too early.
    #[error("the microVM ended before its program did: {0}")]
    Ended(String),
    /// The agent cannot be understood or reached.
    #[error("the guest's agent failed: {0}")]
    Agent(String),
    /// The agent is of another version.
    #[error(
        "the guest's agent speaks version {theirs} of the protocol, this program {VERSION}; build both anew"
    )]
    Version {
        /// The agent's version.
        theirs: u32,
    },
    /// The agent could not make the container or run the program.
    #[error("{message}")]
    Refused {
        /// What the exit code depends on.
        kind: FailureKind,
        /// The agent's words, made printable.
        message: String,
    },
    /// A signal ended this process before the program ran, or although it runs.
    #[error("signal {0} ended this before the program ended")]
    Signal(i32),
    /// This process's own standard streams or threads.
    #[error("cannot join the standard streams: {0}")]
    Stdio(#[from] io::Error),
}

impl From<AgentError> for SessionError {
    fn from(error: AgentError) -> Self {
        SessionError::Agent(error.to_string())
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// The container ran out of memory.
    pub oom_killed: bool,
}

/// A session's constants.
#[derive(Debug)]
pub struct Plan {
    /// What the agent is asked to make.
    pub create: Create,
    /// Standard input is forwarded.
    pub interactive: bool,
    /// The program has a terminal.
    pub terminal: bool,
    /// Asks the program to end when this terminal closes.
    pub stop_signal: i32,
    /// How long the guest may take to answer.
    pub boot_timeout: Duration,
}

/// The loop and what it knows.
#[derive(Debug)]
pub struct Session<'a> {
    plan: &'a Plan,
    timeline: &'a mut Timeline,
    events: Receiver<Event>,
    to_events: Sender<Event>,
    agent: Option<Agent>,
    exited: Option<Outcome>,
    open_streams: Vec<Token>,
    ended_streams: Vec<Token>,
    deadline: Option<Instant>,
    insisted: u32,
    size: Option<bulkhead_protocol::WindowSize>,
    ready: bool,
    started: bool,
}

impl<'a> Session<'a> {
    /// A session whose events arrive in `events`, into which `to_events` sends.
    #[must_use]
    pub fn new(
        plan: &'a Plan,
        timeline: &'a mut Timeline,
        events: Receiver<Event>,
        to_events: Sender<Event>,
    ) -> Self {
        let size = plan.terminal.then(window_size).flatten();
        Self {
            plan,
            timeline,
            events,
            to_events,
            agent: None,
            exited: None,
            open_streams: Vec::new(),
            ended_streams: Vec::new(),
            deadline: None,
            insisted: 0,
            size,
            ready: false,
            started: false,
        }
    }

    /// Runs the session to its end. The machine outlives it.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn run(mut self) -> Result<Outcome, SessionError> {
        self.deadline = Some(Instant::now() + self.plan.boot_timeout);
        while !self.ready {
            let event = self.next_owed()?;
            self.handle(event)?;
        }
        self.timeline.pass(Step::AgentReady);
        let _raw =
            if self.plan.terminal && self.plan.interactive { RawMode::enter()? } else { None };
        // Both at once: the agent takes them in order, and need not wait for this process in between.
        let create = self.ask(Call::Create(Box::new(self.plan.create.clone())))?;
        let start = self.ask(Call::Start { container: self.plan.create.container.clone() })?;
        self.started = true;
        self.answer(create)?;
        self.timeline.pass(Step::Created);
        self.answer(start)?;
        if self.exited.is_none() {
            self.deadline = None;
        }
        self.resize()?;
        self.finish()
    }

    fn ask(&mut self, call: Call) -> Result<u64, SessionError> {
        let Some(agent) = self.agent.as_mut() else {
            return Err(SessionError::Agent("it is not connected".into()));
        };
        Ok(agent.send(call)?)
    }

    /// Handles events until the reply to the call of this number comes.
    fn answer(&mut self, wanted: u64) -> Result<Reply, SessionError> {
        loop {
            match self.next_owed()? {
                Event::Agent(Message::Reply { seq, result }) if seq == wanted => {
                    return result.map_err(|failure| SessionError::Refused {
                        kind: failure.kind,
                        message: printable(&failure.message),
                    });
                }
                event => self.handle(event)?,
            }
        }
    }

    fn finish(mut self) -> Result<Outcome, SessionError> {
        loop {
            let drained = self.open_streams.iter().all(|token| self.ended_streams.contains(token));
            if let (Some(outcome), true) = (self.exited, drained) {
                self.timeline.pass(Step::Ended);
                return Ok(outcome);
            }
            match self.next() {
                // Its streams are still to be read to their ends; they end with the machine.
                Some(Event::AgentGone(_) | Event::VmmGone(_) | Event::Vmm(FromVmm::Ended(_)))
                    if self.exited.is_some() => {}
                Some(event) => self.handle(event)?,
                None => match self.exited {
                    Some(outcome) => return Ok(outcome),
                    None => {
                        self.kill(SIGKILL)?;
                        self.deadline = None;
                    }
                },
            }
        }
    }

    /// The next event; `None` at the deadline.
    fn next(&self) -> Option<Event> {
        let Some(deadline) = self.deadline else { return self.events.recv().ok() };
        self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// The next event while the guest owes an answer; a signal is one for the program only once it may run.
    fn next_owed(&mut self) -> Result<Event, SessionError> {
        match self.next() {
            Some(Event::Signal(signal)) if !self.started && signal != SIGWINCH => {
                Err(SessionError::Signal(signal))
            }
            Some(event) => Ok(event),
            None => Err(SessionError::Timeout(self.plan.boot_timeout.as_secs())),
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), SessionError> {
        match event {
            Event::Vmm(FromVmm::Mark { mark, monotonic_ns, instructions }) => {
                self.timeline.pass_at(mark.into(), monotonic_ns, Some(instructions));
            }
            Event::Vmm(FromVmm::Ended(End::Failed(why))) => {
                return Err(SessionError::Ended(printable(&why)));
            }
            Event::Vmm(FromVmm::Ended(end)) => return Err(SessionError::Ended(end.to_string())),
            Event::VmmGone(last) => {
                let last =
                    last.map_or_else(|| "its VMM was killed".into(), |line| printable(&line));
                return Err(SessionError::Ended(last));
            }
            Event::AgentConnected(connection) => {
                self.agent = Some(Agent::new(connection, self.to_events.clone())?);
            }
            Event::Agent(Message::Ready(ready)) if ready.version != VERSION => {
                return Err(SessionError::Version { theirs: ready.version });
            }
            Event::Agent(Message::Ready(_)) => self.ready = true,
            Event::Agent(Message::Exited(exited)) => self.note_exit(&exited),
            Event::AgentGone(why) => return Err(self.why_gone(why)),
            Event::Stream(token, stream) => self.join(token, stream)?,
            Event::FirstOutput(at) => self.timeline.pass_at(Step::FirstOutput, at, None),
            Event::StreamEnded(token) => self.ended_streams.push(token),
            Event::Signal(signal) if self.started => self.forward(signal)?,
            // An answer that nobody waits for, and a resize before the start: the size is read again then.
            Event::Agent(Message::Reply { .. } | Message::OomKilled { .. })
            | Event::Vmm(FromVmm::Response { .. })
            | Event::Signal(_) => {}
        }
        Ok(())
    }

    /// An agent is mostly gone because its machine is, which is heard a moment later and says more.
    fn why_gone(&mut self, why: String) -> SessionError {
        let until = Instant::now() + LAST_WORDS;
        while let Ok(event) =
            self.events.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if matches!(event, Event::Vmm(_) | Event::VmmGone(_))
                && let Err(error) = self.handle(event)
            {
                return error;
            }
        }
        SessionError::Agent(why)
    }

    fn note_exit(&mut self, exited: &Exited) {
        if exited.target == self.target() && self.exited.is_none() {
            self.exited = Some(Outcome { status: exited.status, oom_killed: exited.oom_killed });
            self.deadline = Some(Instant::now() + DRAIN);
        }
    }

    fn join(
        &mut self,
        token: Token,
        stream: std::os::unix::net::UnixStream,
    ) -> Result<(), SessionError> {
        let stdio = &self.plan.create.stdio;
        if self.open_streams.contains(&token) {
            return Ok(());
        }
        if Some(token) == stdio.main {
            if self.plan.interactive {
                stdio::feed(&stream)?;
            }
            stdio::join(token, stream, io::stdout(), self.to_events.clone());
        } else if Some(token) == stdio.stderr {
            stdio::join(token, stream, io::stderr(), self.to_events.clone());
        } else {
            return Ok(());
        }
        self.open_streams.push(token);
        Ok(())
    }

    fn forward(&mut self, signal: i32) -> Result<(), SessionError> {
        match signal {
            SIGWINCH if self.plan.terminal => self.resize(),
            SIGWINCH => Ok(()),
            SIGHUP => {
                // The terminal is gone: nobody is left to ask twice.
                self.deadline.get_or_insert(Instant::now() + STOP_TIMEOUT);
                self.kill(self.plan.stop_signal)
            }
            SIGINT | SIGTERM => {
                self.insisted += 1;
                match self.insisted.cmp(&INSIST) {
                    Ordering::Less => self.kill(signal),
                    Ordering::Equal => self.kill(SIGKILL),
                    // Not even that helped: the guest does not answer.
                    Ordering::Greater => Err(SessionError::Signal(signal)),
                }
            }
            _ => self.kill(signal),
        }
    }

    fn kill(&mut self, signal: i32) -> Result<(), SessionError> {
        let target = self.target();
        self.send(Call::Kill { target, signal, all: false })
    }

    fn resize(&mut self) -> Result<(), SessionError> {
        let size = self.plan.terminal.then(window_size).flatten();
        match size {
            Some(size) if Some(size) != self.size => {
                self.size = Some(size);
                let target = self.target();
                self.send(Call::Resize { target, size })
            }
            _ => Ok(()),
        }
    }

    fn send(&mut self, call: Call) -> Result<(), SessionError> {
        if let (Some(agent), None) = (self.agent.as_mut(), self.exited) {
            agent.send(call)?;
        }
        Ok(())
    }

    fn target(&self) -> Target {
        Target { container: self.plan.create.container.clone(), exec: None }
    }
}

/// What came out of a guest, fit for a terminal: one line without control characters, cut at 1,000 characters.
fn printable(text: &str) -> String {
    text.chars().take(1000).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
