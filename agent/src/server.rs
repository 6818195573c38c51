//! The agent at work: takes requests, forwards streams, reaps.

use std::{
    os::fd::OwnedFd,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use bulkhead_container::{
    Builder, Created, Platform, Size, Stdio as Ends, hooks, resize,
    spec::{NamespaceType, Process, Resources, Spec},
};
use bulkhead_protocol::{
    self as protocol, Call, Create, Exec, ExitStatus, Failure, Message, Ready, Reply, Target, Token,
};
use rustix::process::{Pid, WaitOptions};

use crate::{
    answer::{Answer, check_id, failure, invalid, process, root_of, state, system},
    boot,
    control::Control,
    events::{self, Events, Source},
    fault::{Fault, to},
    link::Link,
    network::{self, Cards},
    pod,
    ports::{self, Outcome, Ports},
    processes::{Joined, Meters, Processes},
    relay::Relay,
    relays::Relays,
    resolver::Resolver,
    shares::Shares,
    stdio::{self, Prepared},
    template::Template,
};

/// More containers, or processes that joined one, are refused.
const MAX_CONTAINERS: usize = 256;
const MAX_EXECS: usize = 1024;
/// How long processes may take to die in the end.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// The agent's state.
#[derive(Debug)]
pub(crate) struct Server {
    link: Link,
    events: Events,
    children: OwnedFd,
    control: Control,
    platform: Platform,
    pub(crate) processes: Processes,
    relays: Relays,
    shares: Shares,
    template: Template,
    cards: Cards,
    resolver: Resolver,
    ports: Ports,
    /// What need not be done before a program runs: streams of new processes, and memory of started containers.
    new_relays: Vec<(Target, [Option<Relay>; 2])>,
    /// Connections to ports that came about: an event that is on its way may still name a relay whose place one of them gets.
    new_ports: Vec<(Token, OwnedFd)>,
    unwatched: Vec<String>,
}

impl Server {
    /// Connects to the monitor and says that the agent is there.
    pub(crate) fn connect(link: Link, platform: Platform) -> Result<Self, Fault> {
        let events = Events::new()?;
        let children = events::children()?;
        let socket = link.connect(protocol::CONTROL_PORT).map_err(to("connect to the monitor"))?;
        let mut control = Control::new(socket);
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        control.put(&Message::Ready(Ready { version: protocol::VERSION, kernel }));
        events.add(control.socket(), Source::Control).map_err(to("watch the monitor"))?;
        events.add_reader(&children, Source::Children).map_err(to("watch processes"))?;
        control.flush();
        Ok(Self {
            link,
            events,
            children,
            control,
            platform,
            processes: Processes::default(),
            relays: Relays::new(),
            shares: Shares::default(),
            template: Template::default(),
            cards: Cards::default(),
            resolver: Resolver::default(),
            ports: Ports::default(),
            new_relays: Vec::new(),
            new_ports: Vec::new(),
            unwatched: Vec::new(),
        })
    }

    pub(crate) fn platform(&mut self) -> &mut Platform {
        &mut self.platform
    }

    /// Serves until the monitor asks for the end or goes away; then nothing is left running.
    pub(crate) fn run(mut self) -> Result<(), Fault> {
        while self.turn()? {}
        self.end();
        self.control.finish();
        Ok(())
    }

    /// One round of the event loop. False at the end.
    fn turn(&mut self) -> Result<bool, Fault> {
        for (source, flags) in self.events.wait(!self.relays.has_work())? {
            match source {
                Source::Control => {
                    let open = self.control.fill()?;
                    if !self.requests()? || !open {
                        return Ok(false);
                    }
                }
                Source::Children => self.reap(),
                Source::Memory(number) => {
                    if let Some((container, count)) = self.processes.oom_kills(number) {
                        self.control.put(&Message::OomKilled { container, count });
                    }
                }
                Source::Names(number) => self.resolver.ask(number, &mut self.control),
                Source::Port(number) => {
                    let outcome = self.ports.turn(number, &self.events);
                    self.connected(outcome);
                }
                Source::Relay(id, side) => self.relays.event(id, side, flags),
            }
        }
        self.forward_ports();
        self.relays.work();
        let open = self.control.flush();
        self.forward();
        self.watch();
        Ok(open)
    }

    /// Begins to watch the memory of containers that were started.
    fn watch(&mut self) {
        for container in std::mem::take(&mut self.unwatched) {
            if let Err(failure) = self.processes.watch(&container, &self.events) {
                boot::log(&format_args!("its memory is not watched: {failure}"));
            }
        }
    }

    /// Answers the requests that have come. False after a shutdown.
    fn requests(&mut self) -> Result<bool, Fault> {
        while let Some(parsed) = self.control.next_request()? {
            match parsed {
                Ok(request) => {
                    let last = matches!(request.call, Call::Shutdown);
                    if last {
                        self.end();
                    }
                    // Whoever wants one of many processes does not wait for all of them.
                    let makes = matches!(request.call, Call::Create(_) | Call::Exec(_));
                    let answer = self.call(request.call);
                    self.control.reply(request.seq, answer);
                    if last || makes && !self.control.flush() {
                        return Ok(false);
                    }
                }
                Err((seq, failure)) => self.control.reply(seq, Err(failure)),
            }
        }
        Ok(true)
    }

    fn call(&mut self, call: Call<Spec, Process, Resources>) -> Answer {
        match call {
            Call::Create(create) => self.create(*create),
            Call::Start { container } => {
                let entry = self.processes.entry(&container).map_err(failure)?;
                if entry.paused {
                    return Err(state(format!("container {container} is paused; resume it first")));
                }
                entry.container.start().map_err(failure)?;
                self.unwatched.push(container);
                Ok(Reply::Done)
            }
            Call::Exec(exec) => self.exec(*exec),
            Call::Kill { target, signal, all } => self.kill(&target, signal, all),
            Call::Resize { target, size } => self.resize(&target, size),
            Call::Pause { container } => self.pause(&container),
            Call::Resume { container } => self.resume(&container),
            Call::Update { container, resources } => self.update(&container, &resources),
            Call::Stats { container } => self.stats(&container),
            Call::Processes { container } => self.list(&container),
            Call::Delete { container } => {
                let entry = self.processes.entry(&container).map_err(failure)?;
                if !entry.execs.is_empty() {
                    return Err(state(format!(
                        "processes in container {container} have not ended"
                    )));
                }
                entry.container.delete().map_err(failure)?;
                self.processes.remove(&container);
                Ok(Reply::Done)
            }
            Call::Release { devices } => pod::release(&devices).map(|()| Reply::Done),
            Call::Prepare(prepare) => {
                let (link, platform) = (&self.link, &self.platform);
                let done = self.template.prepare(link, platform, &mut self.shares, *prepare)?;
                self.cards.hide()?;
                Ok(done)
            }
            Call::Awaken(awaken) => self.template.awaken(&self.link, &awaken),
            Call::Resolved(resolved) => {
                self.resolver.answer(&resolved);
                Ok(Reply::Done)
            }
            Call::Connect(connect) => self.connect_port(&connect),
            // Everything has ended by now.
            Call::Shutdown => Ok(Reply::Done),
        }
    }

    fn create(&mut self, create: Create<Spec>) -> Answer {
        let Create { container: id, mut spec, root, stdio, shares, bundle, .. } = create;
        let Create { network, shared, memory, .. } = create;
        check_id(&id)?;
        if self.processes.contains(&id) {
            return Err(state(format!("container {id} exists already")));
        }
        if self.processes.len() >= MAX_CONTAINERS {
            return Err(state(format!("{MAX_CONTAINERS} containers exist already; delete one")));
        }
        self.shares.mount(&shares)?;
        pod::mount_memory(&memory)?;
        pod::share(&mut spec, &shared, &mut self.processes)?;
        let (own, shared) = if spec.makes_namespace(NamespaceType::Network) {
            (network, None)
        } else {
            (None, network)
        };
        if let Some(network) = shared {
            let name_servers = network::configure(&self.cards, &network)?;
            self.resolver.add(name_servers, &self.events)?;
        }
        if !spec.has_namespace(NamespaceType::Pid) {
            // It sees the agent's processes, and no other container's.
            self.template.forget();
        }
        let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
        let (ends, prepared) = self.streams(&stdio, terminal)?;
        if spec.makes_namespace(NamespaceType::User) {
            boot::show_kernel_file_systems()?;
        }
        let created = Builder::new(&self.platform, ends)
            .spare(self.template.spare())
            .state(hooks::State::new(&id, &bundle, &spec))
            .init(&id, &spec, root_of(root));
        let Created { container, console, warnings, mounts_ahead } = created.map_err(failure)?;
        let pid = container.init().pid();
        if let Some(network) = own {
            let handed = network::hand_over(&self.cards, &network, pid)
                .and_then(|name_servers| self.resolver.add(name_servers, &self.events));
            if let Err(failure) = handed {
                // Its cgroup goes with the guest.
                let _ = container.init().signal(libc::SIGKILL);
                return Err(failure);
            }
        }
        let console = nonblocking(console)?;
        self.processes.add(container, console.clone());
        let target = Target { container: id, exec: None };
        self.relay(target, prepared, console)?;
        Ok(process(pid, warnings, mounts_ahead))
    }

    fn exec(&mut self, exec: Exec<Process>) -> Answer {
        let Exec { target, process: wanted, stdio } = exec;
        let Some(name) = target.exec.clone() else {
            return Err(invalid("an exec needs a name for its process".to_owned()));
        };
        check_id(&name)?;
        let (ends, prepared) = self.streams(&stdio, wanted.terminal)?;
        let entry = self.processes.entry(&target.container).map_err(failure)?;
        if entry.execs.contains_key(&name) {
            let id = &target.container;
            return Err(state(format!("container {id} has a process {name} already")));
        }
        // A process that joined it would not come as far as to report.
        if entry.is_frozen() {
            let id = &target.container;
            return Err(state(format!("container {id} is paused; resume it first")));
        }
        if entry.execs.len() >= MAX_EXECS {
            return Err(state(format!("{MAX_EXECS} processes have joined already")));
        }
        let joined = Builder::new(&self.platform, ends)
            .exec(&mut entry.container, &wanted)
            .map_err(failure)?;
        let pid = joined.process.pid();
        let console = nonblocking(joined.console)?;
        let meters = Meters::default();
        let joined = Joined { process: joined.process, terminal: console.clone(), meters };
        entry.execs.insert(name, joined);
        self.relay(target, prepared, console)?;
        Ok(process(pid, Vec::new(), None))
    }

    fn connect_port(&mut self, connect: &protocol::Connect) -> Answer {
        let entry = self.processes.entry(&connect.container).map_err(failure)?;
        if entry.container.is_stopped() {
            return Err(state(format!("container {} has stopped", connect.container)));
        }
        boot::needs_proc()?;
        let pid = entry.container.init().pid();
        let sockets = network::inside(pid, ports::sockets)
            .map_err(|errno| system(format!("cannot reach the container's network: {errno}")))?;
        let outcome = self.ports.begin(sockets, connect, &self.events)?;
        self.connected(outcome);
        Ok(Reply::Done)
    }

    /// Notes a connection to a port that came about, or says that it did not.
    fn connected(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Waits => {}
            Outcome::Refused(stream) => self.control.put(&Message::Refused { stream }),
            Outcome::Connected(stream, port) => self.new_ports.push((stream, port)),
        }
    }

    /// Begins to forward new connections to ports.
    fn forward_ports(&mut self) {
        for (stream, port) in std::mem::take(&mut self.new_ports) {
            let relay = self.link.connect(protocol::STREAM_PORT);
            let relay = relay.map(|socket| Relay::of_port(socket, stream, port));
            if relay.and_then(|relay| self.relays.add(&self.events, relay)).is_err() {
                self.control.put(&Message::Refused { stream });
            }
        }
    }

    fn streams(
        &self,
        stdio: &protocol::Stdio,
        terminal: bool,
    ) -> Result<(Ends, Prepared), Failure> {
        stdio::prepare(&self.link, stdio, terminal)
            .map_err(|errno| system(format!("cannot connect the process's streams: {errno}")))
    }

    /// Has a new process's streams forwarded once the answers to the requests that are there have been sent.
    fn relay(
        &mut self,
        target: Target,
        prepared: Prepared,
        console: Option<Rc<OwnedFd>>,
    ) -> Result<(), Failure> {
        let relays = match (prepared, console) {
            (Prepared::Pipes(relays), _) => relays,
            (Prepared::Terminal(Some((socket, token))), Some(master)) => {
                [Some(Relay::new(socket, token, Some(master.clone()), Some(master))), None]
            }
            (Prepared::Terminal(_), _) => [None, None],
        };
        let meters = relays.each_ref().map(|relay| relay.as_ref().map(Relay::meter));
        self.processes.find(&target).map_err(failure)?.set_meters(meters);
        self.new_relays.push((target, relays));
        Ok(())
    }

    /// Begins to forward the streams of new processes. A process whose streams cannot be is killed.
    fn forward(&mut self) {
        for (target, relays) in std::mem::take(&mut self.new_relays) {
            let mut relays = relays.into_iter().flatten();
            if let Err(errno) = relays.try_for_each(|relay| self.relays.add(&self.events, relay)) {
                boot::log(&format_args!(
                    "streams in {} are not forwarded: {errno}",
                    target.container
                ));
                if let Ok(found) = self.processes.find(&target) {
                    // It may have ended by itself.
                    let _ = found.process.signal(libc::SIGKILL);
                }
            }
        }
    }

    fn kill(&mut self, target: &Target, signal: i32, all: bool) -> Answer {
        if !(1..=64).contains(&signal) {
            return Err(invalid(format!("{signal} is no signal; 1 to 64 are")));
        }
        if all {
            let entry = self.processes.entry(&target.container).map_err(failure)?;
            entry.container.signal_all(signal).map_err(failure)?;
        } else {
            let found = self.processes.find(target).map_err(failure)?;
            found.process.signal(signal).map_err(failure)?;
        }
        if signal == libc::SIGKILL {
            // In cgroup v1, the frozen do not even die.
            let entry = self.processes.entry(&target.container).map_err(failure)?;
            entry.thaw().map_err(failure)?;
        }
        Ok(Reply::Done)
    }

    fn resize(&mut self, target: &Target, size: protocol::WindowSize) -> Answer {
        let found = self.processes.find(target).map_err(failure)?;
        let Some(terminal) = found.terminal else {
            return Err(state(format!(
                "the process in container {} has no terminal",
                target.container
            )));
        };
        let size = Size { rows: size.rows, columns: size.columns };
        resize(&**terminal, size).map_err(failure)?;
        Ok(Reply::Done)
    }

    /// Takes the status of every process that has ended, and tells the monitor of its own.
    fn reap(&mut self) {
        events::drain(&self.children);
        while let Some((pid, status)) = next_ended() {
            self.template.exited(pid);
            if let Some(exited) = self.processes.exited(pid, status) {
                self.control.put(&Message::Exited(exited));
            }
        }
    }

    /// Kills everything and waits until it is gone: then the mounts of all containers are, too.
    fn end(&mut self) {
        let deadline = Instant::now() + LAST_WAIT;
        loop {
            self.processes.kill();
            boot::kill_all();
            self.reap();
            let over = self
                .processes
                .iter()
                .all(|entry| entry.container.is_stopped() && entry.execs.is_empty());
            if over || Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        for entry in self.processes.iter() {
            // What cannot be removed goes with the guest, or is removed by the next container of the same id.
            let _ = entry.container.delete();
        }
        boot::sync();
    }
}

/// A terminal's master as a relay wants it.
fn nonblocking(console: Option<OwnedFd>) -> Result<Option<Rc<OwnedFd>>, Failure> {
    if let Some(master) = &console {
        rustix::io::ioctl_fionbio(master, true)
            .map_err(|errno| system(format!("cannot use the terminal: {errno}")))?;
    }
    Ok(console.map(Rc::new))
}

fn next_ended() -> Option<(Pid, ExitStatus)> {
    let (pid, status) = rustix::process::wait(WaitOptions::NOHANG).ok()??;
    let byte = |value: i32| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    let status = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(byte(code)),
        (None, signal) => ExitStatus::Signal(byte(signal.unwrap_or(libc::SIGKILL))),
    };
    Some((pid, status))
}
