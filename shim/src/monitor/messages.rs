//! What the agent says, and the machine's own container from its making to its program.

use std::{os::unix::net::UnixStream, time::Instant};

use bulkhead_protocol::{Call, Create, Failure, Message, Reply, Stdio, Target, Token, VERSION};
use rustix::event::epoll::EventFlags;

use super::{
    contained::Phase,
    core::{LAST_WORDS, Monitor, Owed, log, tell},
    fault::{Fault, printable, to},
    message::{Answer, Outcome},
    ports::Ports,
    relay::is_null,
    terminal, view,
};
use crate::timeline::Step;

/// Lines of the agent that are kept.
pub(super) const MOST_WARNINGS: usize = 64;
/// The tokens of the container's own streams.
const MAIN: Token = 1;
const ERROR: Token = 2;

impl Monitor<'_> {
    pub(super) fn agent(&mut self, flags: EventFlags) -> Result<(), Fault> {
        let mut broken = self.guest.turn(flags, &self.poll).err();
        loop {
            match self.guest.next() {
                Ok(Some(message)) => self.message(message)?,
                Ok(None) => break,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = broken {
            // Mostly because its machine is gone, which is heard a moment later and says more.
            self.guest.hang_up(&self.poll);
            self.agent_gone.get_or_insert((Instant::now() + LAST_WORDS, error.to_string()));
            if let Phase::Ending(ending) = &mut self.main.phase {
                ending.machine_ended();
            }
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), Fault> {
        self.last_word = Instant::now();
        match message {
            Message::Ready(ready) if ready.version != VERSION => Err(Fault::Version(ready.version)),
            Message::Ready(_) if matches!(self.main.phase, Phase::Booting) => {
                self.timeline.pass(Step::AgentReady);
                self.ask_to_create()
            }
            Message::Ready(_) => Ok(()),
            Message::Reply { seq, result } => {
                let result = result.map_err(|failure| Failure {
                    kind: failure.kind,
                    message: printable(&failure.message),
                });
                match self.owed.remove(&seq) {
                    Some(Owed::Awaken) => self.awake(result),
                    Some(Owed::Create) => self.created(result),
                    Some(owed) => {
                        self.reply(owed, result);
                        Ok(())
                    }
                    // The agent makes answers up.
                    None => Ok(()),
                }
            }
            Message::Exited(exited) if exited.target == self.target() => {
                if !matches!(self.main.phase, Phase::Ending(_)) {
                    let oom_killed = self.main.oom_killed || exited.oom_killed;
                    self.end(exited.status, exited.written, oom_killed);
                }
                Ok(())
            }
            Message::Exited(exited) => {
                if let Some(id) = self.execs.find(&exited.target) {
                    self.execs.exited(id, exited.status, exited.written);
                    self.step_exec(id);
                }
                if exited.target.exec.is_none() {
                    self.member_exited(&exited.target.container, exited.oom_killed);
                }
                Ok(())
            }
            Message::Query(query) => {
                self.names.ask(&query, &self.poll);
                Ok(())
            }
            Message::Refused { stream } => {
                self.ports.refuse(stream);
                Ok(())
            }
            Message::OomKilled { container, .. } => {
                let Some(contained) = self.contained(&container) else { return Ok(()) };
                contained.oom_killed = true;
                let member = (container != self.plan.id).then_some(container.as_str());
                for client in self.clients.listeners(member) {
                    self.answer(client, &Answer::Oom);
                }
                Ok(())
            }
        }
    }

    pub(super) fn ask_to_create(&mut self) -> Result<(), Fault> {
        self.main.phase = Phase::Creating;
        let create = Create {
            container: self.plan.id.clone(),
            spec: self.plan.guest.clone(),
            root: self.plan.root.clone(),
            stdio: self.stdio(),
            shares: self.plan.machine.shares.iter().map(|share| share.tag.clone()).collect(),
            bundle: self.plan.bundle.clone(),
            network: self.network.guest.clone(),
            shared: Vec::new(),
            memory: self.plan.memory.clone(),
        };
        self.ask(Call::Create(Box::new(create)), Owed::Create)
            .map_err(|failure| Fault::Agent(failure.message))
    }

    /// The container's own streams. What is `/dev/null` here is so in the guest, without a stream.
    fn stdio(&self) -> Stdio {
        use rustix::stdio::{stderr, stdin, stdout};
        if self.plan.terminal {
            return Stdio { main: Some(MAIN), stdin: true, stderr: None };
        }
        let stdin = !is_null(stdin());
        Stdio {
            main: (stdin || !is_null(stdout())).then_some(MAIN),
            stdin,
            stderr: (!is_null(stderr())).then_some(ERROR),
        }
    }

    fn created(&mut self, result: Result<Reply, Failure>) -> Result<(), Fault> {
        if let Reply::Process { warnings, ahead, .. } = result.map_err(Fault::Refused)? {
            self.awakening.made(ahead);
            for warning in warnings.iter().take(MOST_WARNINGS) {
                log(self.files, &printable(warning));
            }
        }
        self.timeline.pass(Step::Created);
        self.main.phase = Phase::Created;
        for (token, stream) in std::mem::take(&mut self.early_streams) {
            self.stream(token, stream)?;
        }
        self.write_timeline();
        if self.plan.terminal {
            self.resize();
        }
        if self.caller.is_some() {
            view::enter(self.plan)?;
        }
        if let Some(caller) = self.caller.take() {
            self.poll.remove(&caller);
            if let Some(record) = self.record.take() {
                let (warnings, unfit) = self.awakening.take_news();
                tell(caller, &Outcome::Created { record: Box::new(record), warnings, unfit });
            }
        }
        self.admitted.started();
        // The specifications are not needed any more, and nothing as big will be.
        // SAFETY: gives free memory back to the system.
        unsafe { libc::malloc_trim(0) };
        Ok(())
    }

    pub(super) fn stream(&mut self, token: Token, stream: UnixStream) -> Result<(), Fault> {
        // A machine that is given up for another one has taken nothing of the caller's.
        let early = matches!(self.main.phase, Phase::Booting | Phase::Creating);
        if early && matches!(token, MAIN | ERROR) {
            self.early_streams.insert(token, stream);
            return Ok(());
        }
        let joined = match token {
            MAIN => {
                let input = stream.try_clone().and_then(|stream| {
                    if self.stdio().stdin { self.relays.input(stream) } else { Ok(()) }
                });
                input.and_then(|()| self.relays.output(0, stream, rustix::stdio::stdout()))
            }
            ERROR => self.relays.output(1, stream, rustix::stdio::stderr()),
            _ if Ports::is_port(token) => {
                self.carry_port(token, stream);
                Ok(())
            }
            _ => {
                if let Some(id) = self.execs.stream(token, stream) {
                    self.step_exec(id);
                }
                Ok(())
            }
        };
        joined.map_err(to("copy the container's streams"))
    }

    pub(super) fn signal(&mut self, signal: i32) -> Result<(), Fault> {
        match (&self.main.phase, signal) {
            (_, libc::SIGWINCH) => {
                if self.plan.terminal && self.main.lives() {
                    self.resize();
                }
                Ok(())
            }
            (Phase::Booting | Phase::Creating, libc::SIGCONT) => Ok(()),
            (Phase::Booting | Phase::Creating, _) => Err(Fault::Signal(signal)),
            (Phase::Created | Phase::Running, _) => {
                let target = self.target();
                // A guest that cannot be asked is a fault that is heard elsewhere.
                let _ = self.ask(Call::Kill { target, signal, all: false }, Owed::Nobody);
                Ok(())
            }
            (Phase::Ending(_) | Phase::Leaving, _) => Ok(()),
        }
    }

    fn resize(&mut self) {
        if let Some(size) = terminal::size(rustix::stdio::stdin()) {
            let target = self.target();
            // As above.
            let _ = self.ask(Call::Resize { target, size }, Owed::Nobody);
        }
    }

    pub(super) fn target(&self) -> Target {
        Target { container: self.plan.id.clone(), exec: None }
    }

    /// Notes that a container's program runs.
    pub(super) fn running(&mut self, container: &str) {
        let Some(contained) = self.contained(container) else { return };
        if matches!(contained.phase, Phase::Created) {
            contained.phase = Phase::Running;
            if container == self.plan.id {
                self.write_timeline();
            }
        }
    }
}
