//! What clients ask, and what becomes of it.

use std::{os::fd::AsFd, time::Instant};

use bulkhead_protocol::{Call, Exec, Failure, Reply, Target};
use rustix::event::epoll::EventFlags;
use serde_json::Value;

use super::{
    clients::{ClientId, Turn},
    contained::{Contained, Phase, system, wrong},
    core::{Monitor, Owed},
    execs::{ExecId, Step},
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
        let container = self.clients.container(id).unwrap_or(&self.plan.id).to_owned();
        match ask {
            Ask::At(container) => {
                self.clients.point_at(id, container);
                Ok(())
            }
            Ask::Join(join) => self.join(id, *join),
            Ask::Room(disks) => {
                self.pod.find(&disks)?;
                self.answer(id, &Answer::Done(Reply::Done));
                Ok(())
            }
            Ask::Leave => self.end_member(id, &container),
            Ask::Status => {
                let state = self.contained(&container).map_or(State::Stopped, |it| it.state());
                self.answer(id, &Answer::Status(state));
                Ok(())
            }
            Ask::Start => {
                let created = |it: &mut Contained| matches!(it.phase, Phase::Created);
                if !self.contained(&container).is_some_and(created) {
                    return Err(wrong("cannot start a container that has already run or stopped"));
                }
                if container == self.plan.id {
                    // Better not at all than without its network, and nobody told.
                    self.network.still_fits().map_err(|error| system(error.to_string()))?;
                }
                let call = Call::Start { container: container.clone() };
                self.ask(call, Owed::Start(id, container))
            }
            Ask::Kill { signal, all } => {
                let contained = self.living(&container)?;
                let target = Target { container: container.clone(), exec: None };
                let owed = if signal == libc::SIGKILL {
                    contained.doom(Instant::now());
                    Owed::Kill(Some(id), container)
                } else {
                    Owed::Client(id)
                };
                self.ask(Call::Kill { target, signal, all }, owed)
            }
            Ask::Exec { process, streams } => self.exec(id, &container, process, streams),
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
                self.living(&container)?;
                let call = Call::Pause { container: container.clone() };
                self.ask(call, Owed::Pause(id, container))
            }
            Ask::Resume => {
                self.living(&container)?;
                let call = Call::Resume { container: container.clone() };
                self.ask(call, Owed::Resume(id, container))
            }
            Ask::Update(resources) => {
                self.living(&container)?;
                self.ask(Call::Update { container, resources }, Owed::Client(id))
            }
            Ask::Stats => {
                self.living(&container)?;
                self.ask(Call::Stats { container }, Owed::Client(id))
            }
            Ask::Processes => {
                self.living(&container)?;
                self.ask(Call::Processes { container }, Owed::Client(id))
            }
            Ask::Counters => self.count(id),
            Ask::OomKilled => {
                let killed = self.contained(&container).is_some_and(|it| it.oom_killed);
                self.answer(id, &Answer::OomKilled(killed));
                Ok(())
            }
        }
    }

    /// A container of this machine.
    pub(super) fn contained(&mut self, id: &str) -> Option<&mut Contained> {
        if id == self.plan.id { Some(&mut self.main) } else { self.pod.contained(id) }
    }

    fn living(&mut self, id: &str) -> Result<&mut Contained, Failure> {
        let contained = self.contained(id).ok_or_else(|| wrong("container not running"))?;
        contained.living().map(|()| contained)
    }

    fn exec(
        &mut self,
        id: ClientId,
        container: &str,
        process: Value,
        streams: [bool; 3],
    ) -> Result<(), Failure> {
        self.living(container)?;
        let terminal = process.get("terminal").and_then(Value::as_bool).unwrap_or(false);
        let (exec, target, stdio) = self.execs.add(id, container, false, streams, terminal);
        let call = Call::Exec(Box::new(Exec { target, process, stdio }));
        self.ask(call, Owed::Exec(exec)).inspect_err(|_| {
            self.execs.remove(exec);
        })?;
        self.clients.give(id, exec);
        Ok(())
    }

    fn exec_target(&self, id: ClientId) -> Option<Target> {
        self.execs.target(self.clients.exec(id)?).cloned()
    }

    /// Sends a request to the agent; its answer is `owed`.
    pub(super) fn ask(&mut self, call: GuestCall, owed: Owed) -> Result<(), Failure> {
        if self.owed.len() >= MOST_OWED {
            return Err(system(format!("the guest's agent owes {MOST_OWED} answers")));
        }
        if self.vcpus_stopped {
            // A machine that is gone says so by itself.
            let _ = self.machine.run(true);
            self.vcpus_stopped = false;
        }
        let asked = self.guest.ask(call, &self.poll);
        let seq =
            asked.map_err(|error| system(format!("the guest's agent cannot be asked: {error}")))?;
        self.owed.insert(seq, owed);
        Ok(())
    }

    /// The agent's answer to a request.
    pub(super) fn reply(&mut self, owed: Owed, result: Result<Reply, Failure>) {
        let client = match owed {
            Owed::Start(id, container) => {
                if result.is_ok() {
                    self.running(&container);
                }
                id
            }
            Owed::Pause(id, container) => {
                if let Some(contained) = self.contained(&container) {
                    contained.frozen |= result.is_ok();
                }
                id
            }
            Owed::Resume(id, container) => {
                if let Some(contained) = self.contained(&container) {
                    contained.frozen &= result.is_err();
                }
                id
            }
            Owed::Kill(id, container) => {
                if let Some(contained) = self.contained(&container) {
                    contained.doom_answered(result.is_ok());
                }
                let Some(id) = id else { return };
                id
            }
            Owed::Join(container) => return self.member_made(&container, result),
            Owed::Delete(container) => return self.member_deleted(&container, result),
            Owed::Release(container) => return self.member_released(&container, result),
            Owed::Client(id) => id,
            Owed::Exec(exec) => match result {
                Ok(_) => {
                    self.execs.started(exec);
                    return self.step_exec(exec);
                }
                Err(failure) => {
                    if let Some(id) = self.execs.remove(exec) {
                        self.answer(id, &Answer::Failed(failure));
                    }
                    return;
                }
            },
            Owed::Connect(stream) => {
                if result.is_err() {
                    self.ports.refuse(stream);
                }
                return;
            }
            Owed::Shutdown => {
                if let Phase::Ending(ending) = &mut self.main.phase {
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
    pub(super) fn step_exec(&mut self, exec: ExecId) {
        loop {
            match self.execs.step(exec) {
                Step::Wait => return,
                Step::Started(id, streams) => {
                    let fds: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
                    if !self.clients.answer(id, &Answer::Started, &fds, &self.poll) {
                        self.drop_client(id);
                    } else if self.clients.exec(id).is_none() {
                        self.abandon(exec);
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
        if let Some(exec) = self.clients.drop(id, &self.poll) {
            self.abandon(exec);
        }
    }

    /// The process's client is gone, and nobody else can end it.
    fn abandon(&mut self, exec: ExecId) {
        let Some(target) = self.execs.target(exec).cloned() else { return };
        if target.exec.is_none() {
            return self.kill_member(&target.container);
        }
        // It may have ended, or not be there yet: then it is killed when its client is to be told of it.
        let _ = self.ask(Call::Kill { target, signal: libc::SIGKILL, all: false }, Owed::Nobody);
    }

    /// Stops the processors of a frozen container's machine while nobody needs them.
    pub(super) fn rest(&mut self) {
        let idle = self.main.rests() && self.pod.rests() && self.owed.is_empty();
        if idle && !self.vcpus_stopped {
            self.vcpus_stopped = self.machine.run(false).is_ok();
        }
    }
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
