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

use bulkhead_protocol::{Call, Token};
use bulkhead_rootfs::snapshot::Upper;
use bulkhead_vmm::api::{End, FromVmm, Mark};
use rustix::{
    event::epoll::EventFlags,
    fs::{Mode, OFlags, openat},
};
use serde_json::json;

use super::{
    awakening::Awakening,
    clients::{ClientId, Clients},
    contained::{Contained, Phase},
    execs::{ExecId, Execs},
    fault::{Fault, LOST, chain, printable, to},
    guest::Guest,
    machine::{Machine, News},
    message::Outcome,
    names::Names,
    place::{self, Place},
    plan::Plan,
    pod::Pod,
    poll::{Poll, Source},
    ports::Ports,
    relay::Relays,
    signals,
};
use crate::{
    network::Network,
    sandbox::vm::{
        Identity, Record,
        admission::{AdmissionError, Admitted},
    },
    timeline::{Step, Timeline},
};

/// How long a machine may take to say how it ended after its agent has gone.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(3);
/// The directory of the machine's sockets, and the name that they begin with.
pub(crate) const VSOCK_DIRECTORY: &str = "vsock";
pub(crate) const VSOCK_NAME: &str = "vm";
/// The VMM's standard error.
pub(crate) const LOG: &str = "vmm.log";
/// What the monitor's own lines in it begin with.
pub(crate) const SAYS: &str = "bulkhead: ";

/// What an answer of the agent is for.
#[derive(Debug)]
pub(super) enum Owed {
    /// The clone is awake.
    Awaken,
    /// The container is made.
    Create,
    /// One that joins a pod is made.
    Join(String),
    /// One that had joined is removed.
    Delete(String),
    /// Its disks are let go of.
    Release(String),
    /// Its program runs.
    Start(ClientId, String),
    /// It is frozen.
    Pause(ClientId, String),
    /// It goes on.
    Resume(ClientId, String),
    /// A process joined it.
    Exec(ExecId),
    /// It connects to a port; the connection's stream.
    Connect(Token),
    /// It is killed; who wanted that.
    Kill(Option<ClientId>, String),
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
    /// The machine's own container.
    pub(super) main: Contained,
    /// Those that have joined it.
    pub(super) pod: Pod,
    pub(super) vcpus_stopped: bool,
    pub(super) timeline: Timeline,
    pub(super) network: Network,
    pub(super) names: Names,
    pub(super) ports: Ports,
    signals: OwnedFd,
    pub(super) caller: Option<OwnedFd>,
    pub(super) record: Option<Record>,
    pub(super) boot_deadline: Instant,
    pub(super) agent_gone: Option<(Instant, String)>,
    /// When the agent last said something.
    pub(super) last_word: Instant,
    pub(super) awakening: Awakening,
    /// Streams of a container that is not made yet.
    pub(super) early_streams: BTreeMap<Token, UnixStream>,
    pub(super) admitted: Admitted,
    /// What is settled when the machine has ended. Its path is out of sight by then.
    pub(super) upper: Option<Upper>,
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
        let ports = Ports::new(plan, place.has_network());
        let made = Made { record, admitted, network, ports };
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
    ports: Ports,
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
pub(crate) fn log(files: impl AsFd, line: &impl std::fmt::Display) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let file = openat(files, LOG, flags, Mode::from_raw_mode(0o600)).map(File::from);
    // Nobody to tell when this fails.
    let _ = file.map(|mut file| writeln!(file, "{SAYS}{line}"));
}

/// The last word to the caller, who may be gone.
pub(crate) fn tell(caller: OwnedFd, outcome: &Outcome) {
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
        let Made { record, admitted, network, ports } = made;
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
            main: Contained::new(Phase::Booting),
            pod: Pod::of(&plan.machine),
            vcpus_stopped: false,
            timeline,
            names: Names::new(network.name_servers()),
            network,
            ports,
            signals,
            caller: caller.take(),
            record: Some(record),
            boot_deadline: Instant::now() + plan.boot_timeout,
            agent_gone: None,
            last_word: Instant::now(),
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
            self.step_leaving();
            self.listen_at_ports();
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
            Source::Ports => self.connect_port(),
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
        match &self.main.phase {
            Phase::Booting | Phase::Creating => {
                if now >= self.boot_deadline {
                    return Err(Fault::Timeout(self.plan.boot_timeout.as_secs()));
                }
                until(self.boot_deadline);
            }
            Phase::Created | Phase::Running | Phase::Leaving => {}
            Phase::Ending(ending) => until(ending.wake_at()),
        }
        self.main.dies_by(now, self.last_word)?.into_iter().for_each(&mut until);
        self.pod.wake_at(now, self.last_word)?.into_iter().for_each(&mut until);
        let ends = matches!(self.main.phase, Phase::Ending(_));
        if let (Some((at, why)), false) = (&self.agent_gone, ends) {
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
                if mark == Mark::ContainerExec && matches!(self.main.phase, Phase::Running) {
                    self.write_timeline();
                }
                return Ok(());
            }
            News::Said(FromVmm::Response { id, result }) => {
                self.vmm_answered(id, result);
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
        match &mut self.main.phase {
            Phase::Ending(ending) => {
                ending.machine_ended();
                Ok(())
            }
            _ => Err(Fault::Ended(why)),
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
}
