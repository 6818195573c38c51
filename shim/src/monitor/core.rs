//! The monitor's state and its event loop.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use bulkhead_protocol::{
    Call, Create, ExitStatus, Failure, Message, Reply, Stdio, Target, Token, VERSION,
};
use bulkhead_rootfs::snapshot::Upper;
use bulkhead_vmm::api::{End, FromVmm, Mark};
use rustix::{
    event::epoll::EventFlags,
    fs::{AtFlags, Mode, OFlags, openat, unlinkat},
};
use serde_json::json;

use super::{
    awakening::Awakening,
    clients::{ClientId, Clients},
    ending::Ending,
    execs::Execs,
    fault::{Fault, LOST, chain, printable, to},
    guest::Guest,
    machine::{Machine, News},
    message::{Answer, Outcome},
    names::Names,
    place::{self, Place},
    plan::Plan,
    poll::{Poll, Source},
    relay::{Relays, is_null},
    signals, terminal, view,
};
use crate::{
    network::Network,
    sandbox::vm::{
        ENDED, Ended, Identity, Record,
        admission::{AdmissionError, Admitted},
    },
    timeline::{Step, Timeline},
};

/// How long a machine may take to say how it ended after its agent has gone.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a guest may take to say that a killed container ended.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of the agent that are kept.
const MOST_WARNINGS: usize = 64;
/// The tokens of the container's own streams.
const MAIN: Token = 1;
const ERROR: Token = 2;
/// The directory of the machine's sockets, and the name that they begin with.
pub(crate) const VSOCK_DIRECTORY: &str = "vsock";
pub(crate) const VSOCK_NAME: &str = "vm";
/// The VMM's standard error.
pub(crate) const LOG: &str = "vmm.log";

/// What the container does.
#[derive(Debug)]
pub(super) enum Phase {
    /// The agent has not said that it is ready.
    Booting,
    /// The agent makes it.
    Creating,
    /// It waits for its start.
    Created,
    /// Its program runs.
    Running,
    /// It has ended.
    Ending(Ending),
}

/// What an answer of the agent is for.
#[derive(Debug)]
pub(super) enum Owed {
    /// The clone is awake.
    Awaken,
    /// The container is made.
    Create,
    /// Its program runs.
    Start(ClientId),
    /// It is frozen.
    Pause(ClientId),
    /// It goes on.
    Resume(ClientId),
    /// A process joined it.
    Exec(String),
    /// It was sent a signal.
    Kill(ClientId),
    /// For this client as it is.
    Client(ClientId),
    /// The guest's file systems are written.
    Shutdown,
    /// Nobody waits for it.
    Nobody,
}

/// The monitor.
#[derive(Debug)]
pub(super) struct Monitor<'a> {
    pub(super) plan: &'a Plan,
    /// The state directory.
    pub(super) files: BorrowedFd<'a>,
    pub(super) poll: Poll,
    pub(super) machine: Machine,
    pub(super) guest: Guest,
    pub(super) clients: Clients,
    pub(super) execs: Execs,
    pub(super) relays: Relays,
    pub(super) owed: BTreeMap<u64, Owed>,
    /// Who asked for the machine's counters, by the request's number.
    pub(super) counting: BTreeMap<u64, ClientId>,
    pub(super) phase: Phase,
    pub(super) frozen: bool,
    pub(super) vcpus_stopped: bool,
    /// The memory limit has killed something.
    pub(super) oom_killed: bool,
    /// It was killed: its processors must run until it has ended.
    pub(super) doomed: Option<Instant>,
    pub(super) timeline: Timeline,
    pub(super) network: Network,
    names: Names,
    signals: OwnedFd,
    caller: Option<OwnedFd>,
    pub(super) record: Option<Record>,
    pub(super) boot_deadline: Instant,
    pub(super) agent_gone: Option<(Instant, String)>,
    pub(super) awakening: Awakening,
    /// Streams of a container that is not made yet.
    pub(super) early_streams: BTreeMap<Token, UnixStream>,
    admitted: Admitted,
    /// What is settled when the machine has ended. Its path is out of sight by then.
    upper: Option<Upper>,
}

/// Runs a container from its machine's start to its program's end; returns the exit code. `caller` is the writing end of
/// a pipe, which carries the [`Outcome`] of the creation; when its reading end closes before, nothing is left behind.
pub(crate) fn run(plan: &Plan, caller: OwnedFd) -> u8 {
    let mut timeline = Timeline::begin(plan.requested);
    timeline.pass(Step::Prepared);
    let mut caller = Some(caller);
    let mut place = Place::default();
    let files = match place::directory(plan) {
        Ok(files) => files,
        Err(fault) => {
            caller.into_iter().for_each(|caller| tell(caller, &Outcome::Failed(fault.failure())));
            return LOST;
        }
    };
    let ended = place.enter(plan, &files).and_then(|record| {
        let admitted = admit(plan, &files)?;
        Place::run_hooks(plan)?;
        let network = place.network(plan)?;
        let made = Made { record, admitted, network };
        let mut monitor = Monitor::start(plan, files.as_fd(), made, timeline, &mut caller)?;
        monitor.machine_started();
        let ended = monitor.run();
        caller = monitor.caller.take();
        monitor.finish(&place);
        ended
    });
    match ended {
        Ok(code) => code,
        Err(fault) => {
            if let Some(caller) = caller {
                place.leave(plan);
                tell(caller, &Outcome::Failed(fault.failure()));
            } else {
                // The container was there, so this is the end of its life and not of its making.
                log(&files, &fault);
            }
            LOST
        }
    }
}

/// What the machine's start needs, beside the plan.
struct Made {
    record: Record,
    admitted: Admitted,
    network: Network,
}

/// Asks whether there is memory for the machine. Where that cannot be found out, it may start.
fn admit(plan: &Plan, files: impl AsFd) -> Result<Admitted, Fault> {
    match plan.admission.admit(plan.machine.memory_mib) {
        Err(error @ AdmissionError::Io { .. }) => {
            log(files, &error);
            Ok(Admitted::unasked())
        }
        answer => Ok(answer?),
    }
}

/// One line for the administrator.
pub(super) fn log(files: impl AsFd, line: &impl std::fmt::Display) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let file = openat(files, LOG, flags, Mode::from_raw_mode(0o600)).map(File::from);
    // Nobody to tell when this fails.
    let _ = file.map(|mut file| writeln!(file, "bulkhead: {line}"));
}

/// The last word to the caller, who may be gone.
fn tell(caller: OwnedFd, outcome: &Outcome) {
    let _ = serde_json::to_vec(outcome)
        .map_err(std::io::Error::from)
        .and_then(|text| File::from(caller).write_all(&text));
}

impl<'a> Monitor<'a> {
    fn start(
        plan: &'a Plan,
        files: BorrowedFd<'a>,
        made: Made,
        mut timeline: Timeline,
        caller: &mut Option<OwnedFd>,
    ) -> Result<Self, Fault> {
        let poll = Poll::new()?;
        if let Some(caller) = caller.as_ref() {
            poll.add(caller, Source::Caller, EventFlags::empty())?;
        }
        if let Some(owner) = &plan.owner {
            poll.add(owner, Source::Owner, EventFlags::empty())?;
        }
        let signals = signals::descriptor()?;
        poll.add(&signals, Source::Signal, EventFlags::IN)?;
        let relays = Relays::new()?;
        poll.add(relays.wake(), Source::Relay, EventFlags::IN)?;
        let sockets = plan.sockets();
        std::fs::create_dir_all(&sockets).map_err(to(format!("make {}", sockets.display())))?;
        let guest = Guest::listen(&sockets, VSOCK_NAME, &poll)?;
        let clients = Clients::listen(&plan.directory, &poll)?;
        let Made { record, admitted, network } = made;
        for note in plan.notes.iter().chain(&network.notes) {
            log(files, note);
        }
        let upper = plan.upper.as_deref().map(Upper::open).transpose();
        let upper = upper.map_err(|error| to("settle the root")(chain(&error)))?;
        let (awakening, config) = Awakening::begin(plan, &network.nics)?;
        let machine = Machine::start(plan, &config)?;
        timeline.pass(Step::VmmSpawned);
        poll.add(machine.wake(), Source::Vmm, EventFlags::IN)?;
        Ok(Self {
            plan,
            files,
            poll,
            machine,
            guest,
            clients,
            execs: Execs::default(),
            relays,
            owed: BTreeMap::new(),
            counting: BTreeMap::new(),
            phase: Phase::Booting,
            frozen: false,
            vcpus_stopped: false,
            oom_killed: false,
            doomed: None,
            timeline,
            names: Names::new(network.name_servers()),
            network,
            signals,
            caller: caller.take(),
            record: Some(record),
            boot_deadline: Instant::now() + plan.boot_timeout,
            agent_gone: None,
            awakening,
            early_streams: BTreeMap::new(),
            admitted,
            upper,
        })
    }

    /// Notes the VMM's process for whoever removes the container and for those who ask for memory.
    pub(super) fn machine_started(&mut self) {
        let vmm = self.machine.pid().and_then(Identity::of);
        if let Some(record) = &mut self.record {
            record.vmm = vmm;
        }
        if let Err(error) = self.admitted.taken_by(vmm) {
            log(self.files, &error);
        }
    }

    fn run(&mut self) -> Result<u8, Fault> {
        loop {
            if let Some(code) = self.ended()? {
                return Ok(code);
            }
            if let Err(fault) = self.turn() {
                self.boot_instead(fault)?;
            }
            self.rest();
        }
    }

    fn turn(&mut self) -> Result<(), Fault> {
        let deadline = self.deadlines()?;
        for (source, flags) in self.poll.wait(deadline)? {
            self.event(source, flags)?;
        }
        Ok(())
    }

    fn event(&mut self, source: Source, flags: EventFlags) -> Result<(), Fault> {
        match source {
            Source::Caller if self.caller.is_some() => return Err(Fault::CallerGone),
            Source::Caller => {}
            Source::Owner => return Err(Fault::OwnerGone),
            Source::Signal => {
                while let Some(signal) = signals::next(&self.signals) {
                    self.signal(signal)?;
                }
            }
            Source::Vmm => {
                for news in self.machine.news() {
                    self.news(news)?;
                }
            }
            Source::Control => {
                if self.guest.accept(&self.poll)? {
                    self.awaken()?;
                }
            }
            Source::Agent => self.agent(flags)?,
            Source::Streams => self.guest.accept_stream(&self.poll),
            Source::Hello(id) => {
                if let Some((token, stream)) = self.guest.hello(id, &self.poll) {
                    self.stream(token, stream)?;
                }
            }
            Source::Relay => self.relays.clear(),
            Source::Listener => self.clients.accept(&self.poll),
            Source::Client(id) => self.client(id, flags),
            Source::Name(number) => {
                if let Some(resolved) = self.names.answer(number, &self.poll) {
                    // A lost answer is asked for again.
                    let _ = self.ask(Call::Resolved(resolved), Owed::Nobody);
                }
            }
        }
        Ok(())
    }

    /// The next time at which something is to be done; faults for what is overdue.
    fn deadlines(&mut self) -> Result<Option<Instant>, Fault> {
        let now = Instant::now();
        let mut next = [self.guest.expire(), self.names.expire()].into_iter().flatten().min();
        let mut until = |at: Instant| next = Some(next.map_or(at, |other| other.min(at)));
        match &self.phase {
            Phase::Booting | Phase::Creating => {
                if now >= self.boot_deadline {
                    return Err(Fault::Timeout(self.plan.boot_timeout.as_secs()));
                }
                until(self.boot_deadline);
            }
            Phase::Created | Phase::Running => {
                if let Some(at) = self.doomed {
                    if now >= at {
                        return Err(Fault::Unkillable);
                    }
                    until(at);
                }
            }
            Phase::Ending(ending) => until(ending.wake_at()),
        }
        if let (Some((at, why)), false) = (&self.agent_gone, matches!(self.phase, Phase::Ending(_)))
        {
            if now >= *at {
                return Err(Fault::Agent(why.clone()));
            }
            until(*at);
        }
        Ok(next)
    }

    fn news(&mut self, news: News) -> Result<(), Fault> {
        let why = match news {
            News::Said(FromVmm::Mark { mark, monotonic_ns, instructions }) => {
                self.timeline.pass_at(mark.into(), monotonic_ns, Some(instructions));
                if mark == Mark::ContainerExec && matches!(self.phase, Phase::Running) {
                    self.write_timeline();
                }
                return Ok(());
            }
            News::Said(FromVmm::Response { id, result }) => {
                self.counted(id, result);
                return Ok(());
            }
            News::Said(FromVmm::Ended(End::Failed(why))) => {
                self.awakening.refused();
                printable(&why)
            }
            News::Said(FromVmm::Ended(end)) => end.to_string(),
            News::Gone(last) => {
                // Its eventfd has rung for the last time.
                self.poll.remove(self.machine.wake());
                last
            }
        };
        match &mut self.phase {
            Phase::Ending(ending) => {
                ending.machine_ended();
                Ok(())
            }
            _ => Err(Fault::Ended(why)),
        }
    }

    fn agent(&mut self, flags: EventFlags) -> Result<(), Fault> {
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
            if let Phase::Ending(ending) = &mut self.phase {
                ending.machine_ended();
            }
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), Fault> {
        match message {
            Message::Ready(ready) if ready.version != VERSION => Err(Fault::Version(ready.version)),
            Message::Ready(_) if matches!(self.phase, Phase::Booting) => {
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
            Message::Query(query) => {
                self.names.ask(&query, &self.poll);
                Ok(())
            }
            Message::Exited(exited) if exited.target == self.target() => {
                if !matches!(self.phase, Phase::Ending(_)) {
                    let oom_killed = self.oom_killed || exited.oom_killed;
                    self.end(exited.status, exited.written, oom_killed);
                }
                Ok(())
            }
            Message::Exited(exited) => {
                if let Some(name) = exited.target.exec {
                    self.execs.exited(&name, exited.status, exited.written);
                    self.step_exec(&name);
                }
                Ok(())
            }
            Message::OomKilled { .. } => {
                self.oom_killed = true;
                for client in self.clients.listeners() {
                    self.answer(client, &Answer::Oom);
                }
                Ok(())
            }
        }
    }

    pub(super) fn ask_to_create(&mut self) -> Result<(), Fault> {
        self.phase = Phase::Creating;
        let create = Create {
            container: self.plan.id.clone(),
            spec: self.plan.guest.clone(),
            root: self.plan.root.clone(),
            stdio: self.stdio(),
            shares: self.plan.machine.shares.iter().map(|share| share.tag.clone()).collect(),
            bundle: self.plan.bundle.clone(),
            network: self.network.guest.clone(),
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
        if let Reply::Process { warnings, .. } = result.map_err(Fault::Refused)? {
            for warning in warnings.iter().take(MOST_WARNINGS) {
                log(self.files, &printable(warning));
            }
        }
        self.timeline.pass(Step::Created);
        self.phase = Phase::Created;
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
                tell(caller, &Outcome::Created { record, warnings, unfit });
            }
        }
        self.admitted.started();
        // The specifications are not needed any more, and nothing as big will be.
        // SAFETY: gives free memory back to the system.
        unsafe { libc::malloc_trim(0) };
        Ok(())
    }

    fn stream(&mut self, token: Token, stream: UnixStream) -> Result<(), Fault> {
        // A machine that is given up for another one has taken nothing of the caller's.
        let early = matches!(self.phase, Phase::Booting | Phase::Creating);
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
            _ => {
                if let Some(name) = self.execs.stream(token, stream) {
                    self.step_exec(&name);
                }
                Ok(())
            }
        };
        joined.map_err(to("copy the container's streams"))
    }

    fn signal(&mut self, signal: i32) -> Result<(), Fault> {
        match (&self.phase, signal) {
            (_, libc::SIGWINCH) => {
                if self.plan.terminal && matches!(self.phase, Phase::Created | Phase::Running) {
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
            (Phase::Ending(_), _) => Ok(()),
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

    /// Notes that the program runs.
    pub(super) fn running(&mut self) {
        if matches!(self.phase, Phase::Created) {
            self.phase = Phase::Running;
            self.write_timeline();
        }
    }

    pub(super) fn write_timeline(&mut self) {
        if let Some(at) = self.relays.first_output() {
            self.timeline.pass_at(Step::FirstOutput, at, None);
        }
        let timeline = json!({
            "steps": self.timeline.records(),
            "template": self.awakening.clone_of(),
        });
        place::write(self.files, "timeline.json", &timeline);
    }

    /// The program has ended.
    fn end(&mut self, status: ExitStatus, written: [u64; 2], oom_killed: bool) {
        self.timeline.pass(Step::Ended);
        self.write_timeline();
        let ended = Ended { status, oom_killed };
        place::write(self.files, ENDED, &ended);
        self.phase = Phase::Ending(Ending::new(status, written));
    }

    /// Ends what is left. The socket goes last, just before the process: until then it says that the exit code is still
    /// to come.
    fn finish(mut self, place: &Place) {
        for client in self.execs.take_all() {
            let lost = Answer::Exited { status: ExitStatus::Signal(9), written: [u64::MAX; 2] };
            self.answer(client, &lost);
        }
        let Self { plan, files, machine, clients, upper, .. } = self;
        drop(machine);
        place.leave_network(plan);
        if let Some(Err(error)) = upper.map(|upper| upper.settle()) {
            log(files, &chain(&error));
        }
        // It may be gone with its directory.
        let _ = unlinkat(files, super::message::SOCKET, AtFlags::empty());
        drop(clients);
    }
}
