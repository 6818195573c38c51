//! What clients ask, and what becomes of it.

use std::{os::fd::AsFd, time::Instant};

use bulkhead_protocol::{Call, Exec, Failure, FailureKind, Reply, Target};
use rustix::event::epoll::EventFlags;
use serde_json::Value;

use super::{
    clients::{ClientId, Turn},
    core::{KILL_TIMEOUT, Monitor, Owed, Phase},
    execs::Step,
    fault::printable,
    guest::GuestCall,
    message::{Answer, Ask, State},
};

/// Requests that the agent has not answered; more are refused.
const MOST_OWED: usize = 4096;

impl Monitor<'_> {
    /// A client can be read or written.
    pub(super) fn client(&mut self, id: ClientId, flags: EventFlags) {
        let mut turn = self.clients.turn(id, flags, &self.poll);
        loop {
            match turn {
                Turn::Waits => return,
                Turn::Gone => return self.drop_client(id),
                Turn::Asks(ask) => self.serve(id, ask),
            }
            turn = self.clients.next(id);
        }
    }

    fn serve(&mut self, id: ClientId, ask: Ask) {
        if let Err(failure) = self.try_serve(id, ask) {
            self.answer(id, &Answer::Failed(failure));
        }
    }

    fn try_serve(&mut self, id: ClientId, ask: Ask) -> Result<(), Failure> {
        let container = || self.plan.id.clone();
        match ask {
            Ask::Status => {
                let state = self.state();
                self.answer(id, &Answer::Status(state));
                Ok(())
            }
            Ask::Start => {
                if !matches!(self.phase, Phase::Created) {
                    return Err(wrong("cannot start a container that has already run or stopped"));
                }
                self.ask(Call::Start { container: container() }, Owed::Start(id))
            }
            Ask::Kill { signal, all } => {
                self.living()?;
                if signal == libc::SIGKILL {
                    self.doomed = Some(Instant::now() + KILL_TIMEOUT);
                }
                let target = self.target();
                self.ask(Call::Kill { target, signal, all }, Owed::Kill(id))
            }
            Ask::Exec { process, streams } => self.exec(id, process, streams),
            Ask::Signal(signal) => {
                if let Some(target) = self.exec_target(id) {
                    // It may have ended; its client hears of that.
                    let _ = self.ask(Call::Kill { target, signal, all: false }, Owed::Nobody);
                }
                Ok(())
            }
            Ask::Resize(size) => {
                if let Some(target) = self.exec_target(id) {
                    // As above.
                    let _ = self.ask(Call::Resize { target, size }, Owed::Nobody);
                }
                Ok(())
            }
            Ask::Events => {
                self.clients.listen_to_events(id);
                Ok(())
            }
            Ask::Pause => {
                self.living()?;
                self.ask(Call::Pause { container: container() }, Owed::Pause(id))
            }
            Ask::Resume => {
                self.living()?;
                self.ask(Call::Resume { container: container() }, Owed::Resume(id))
            }
            Ask::Update(resources) => {
                self.living()?;
                self.ask(Call::Update { container: container(), resources }, Owed::Client(id))
            }
            Ask::Stats => {
                self.living()?;
                self.ask(Call::Stats { container: container() }, Owed::Client(id))
            }
            Ask::Processes => {
                self.living()?;
                self.ask(Call::Processes { container: container() }, Owed::Client(id))
            }
            Ask::Counters => self.count(id),
            Ask::OomKilled => {
                let killed = self.oom_killed;
                self.answer(id, &Answer::OomKilled(killed));
                Ok(())
            }
        }
    }

    fn state(&self) -> State {
        match self.phase {
            Phase::Booting | Phase::Creating => State::Creating,
            _ if self.frozen => State::Paused,
            Phase::Created => State::Created,
            // Until its output is out and its files are written, its pid and its exit code are still to be waited for.
            Phase::Running | Phase::Ending(_) => State::Running,
        }
    }

    fn living(&self) -> Result<(), Failure> {
        match self.phase {
            Phase::Created | Phase::Running => Ok(()),
            Phase::Booting | Phase::Creating => Err(wrong("the container is still being created")),
            Phase::Ending(_) => Err(wrong("container not running")),
        }
    }

    fn exec(&mut self, id: ClientId, process: Value, streams: [bool; 3]) -> Result<(), Failure> {
        self.living()?;
        let terminal = process.get("terminal").and_then(Value::as_bool).unwrap_or(false);
        let (name, stdio) = self.execs.add(id, streams, terminal);
        let target = Target { container: self.plan.id.clone(), exec: Some(name.clone()) };
        let call = Call::Exec(Box::new(Exec { target, process, stdio }));
        self.ask(call, Owed::Exec(name.clone())).inspect_err(|_| {
            self.execs.remove(&name);
        })?;
        self.clients.give(id, name);
        Ok(())
    }

    fn exec_target(&self, id: ClientId) -> Option<Target> {
        let name = self.clients.exec(id)?.to_owned();
        Some(Target { container: self.plan.id.clone(), exec: Some(name) })
    }

    /// Sends a request to the agent; its answer is `owed`.
    pub(super) fn ask(&mut self, call: GuestCall, owed: Owed) -> Result<(), Failure> {
        if self.owed.len() >= MOST_OWED {
            let message = format!("the guest's agent owes {MOST_OWED} answers");
            return Err(Failure { kind: FailureKind::System, message });
        }
        if self.vcpus_stopped {
            // A machine that is gone says so by itself.
            let _ = self.machine.run(true);
            self.vcpus_stopped = false;
        }
        let seq = self.guest.ask(call, &self.poll).map_err(|error| Failure {
            kind: FailureKind::System,
            message: format!("the guest's agent cannot be asked: {error}"),
        })?;
        self.owed.insert(seq, owed);
        Ok(())
    }

    /// The agent's answer to a request.
    pub(super) fn reply(&mut self, owed: Owed, result: Result<Reply, Failure>) {
        let client = match owed {
            Owed::Start(id) => {
                if result.is_ok() {
                    self.running();
                }
                id
            }
            Owed::Pause(id) => {
                self.frozen |= result.is_ok();
                id
            }
            Owed::Resume(id) => {
                self.frozen &= result.is_err();
                id
            }
            Owed::Kill(id) => {
                if result.is_err() {
                    self.doomed = None;
                }
                id
            }
            Owed::Client(id) => id,
            Owed::Exec(name) => match result {
                Ok(_) => {
                    self.execs.started(&name);
                    return self.step_exec(&name);
                }
                Err(failure) => {
                    if let Some(id) = self.execs.remove(&name) {
                        self.answer(id, &Answer::Failed(failure));
                    }
                    return;
                }
            },
            Owed::Shutdown => {
                if let Phase::Ending(ending) = &mut self.phase {
                    ending.synced();
                }
                return;
            }
            Owed::Awaken | Owed::Create | Owed::Nobody => return,
        };
        let answer = result.map_or_else(Answer::Failed, |reply| Answer::Done(tidy(reply)));
        self.answer(client, &answer);
    }

    /// Tells a process's client what there is to tell.
    pub(super) fn step_exec(&mut self, name: &str) {
        loop {
            match self.execs.step(name) {
                Step::Wait => return,
                Step::Started(id, streams) => {
                    let fds: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
                    if !self.clients.answer(id, &Answer::Started, &fds, &self.poll) {
                        self.drop_client(id);
                    } else if self.clients.exec(id).is_none() {
                        self.kill_exec(name);
                    }
                }
                Step::Exited(id, status, written) => {
                    self.answer(id, &Answer::Exited { status, written });
                }
            }
        }
    }

    /// Sends an answer. A client that does not take it is dropped.
    pub(super) fn answer(&mut self, id: ClientId, answer: &Answer) {
        if !self.clients.answer(id, answer, &[], &self.poll) {
            self.drop_client(id);
        }
    }

    fn drop_client(&mut self, id: ClientId) {
        if let Some(name) = self.clients.drop(id, &self.poll) {
            self.kill_exec(&name);
        }
    }

    /// The process's client is gone, and nobody else can end it.
    fn kill_exec(&mut self, name: &str) {
        let target = Target { container: self.plan.id.clone(), exec: Some(name.to_owned()) };
        // It may have ended, or not be there yet: then it is killed when its client is to be told of it.
        let _ = self.ask(Call::Kill { target, signal: libc::SIGKILL, all: false }, Owed::Nobody);
    }

    /// Stops the processors of a frozen container's machine while nobody needs them.
    pub(super) fn rest(&mut self) {
        let idle = self.frozen && self.doomed.is_none() && self.owed.is_empty();
        if idle && !self.vcpus_stopped {
            self.vcpus_stopped = self.machine.run(false).is_ok();
        }
    }
}

fn wrong(message: &str) -> Failure {
    Failure { kind: FailureKind::State, message: message.into() }
}

/// A guest's words are shown on terminals.
fn tidy(mut reply: Reply) -> Reply {
    match &mut reply {
        Reply::Updated { warnings } | Reply::Process { warnings, .. } => {
            warnings.iter_mut().for_each(|line| *line = printable(line));
        }
        Reply::Processes(processes) => {
            for process in processes {
                process.command = printable(&process.command);
                process.tty = process.tty.as_deref().map(printable);
            }
        }
        Reply::Done | Reply::Stats(_) | Reply::Awake { .. } => {}
    }
    reply
}
