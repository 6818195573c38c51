//! The new process, from its first instruction to its program: two linear lists of named steps, one for a container's
//! first process and one for a process that joins it. It may share the agent's memory while the agent waits, so all that
//! outlives a step is in the [`Job`], which is the agent's.

use std::{
    ffi::{CString, c_void},
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
};

use rustix::{
    fs::{Mode, Uid},
    mount::MountPropagationFlags,
    process::umask,
    thread::{Gid, ThreadNameSpaceType},
};

use crate::{
    affinity::Affinity,
    cgroup::Cgroup,
    clone, descriptors,
    error::{Error, at},
    gate, hooks,
    hooks::State,
    identity::Identity,
    lsm::Label,
    mount::{self, Entry, Mounts, Nodes, Root},
    namespace::Namespaces,
    program::Program,
    report,
    spec::{Hook, NamespaceType},
    sys,
    sysctl::Sysctls,
    terminal::{self, Size},
};

/// All that the process needs to know.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) report: RawFd,
    /// See [`Cgroup::doors`].
    pub(crate) doors: Vec<RawFd>,
    pub(crate) streams: Streams,
    /// How many descriptors after the standard streams the program gets as they are.
    pub(crate) preserved: u32,
    pub(crate) task: Task,
    pub(crate) identity: Identity,
    pub(crate) program: Program,
    /// The process waits for its maker before its first step.
    pub(crate) hold: bool,
    /// A process goes before, which joins namespaces and makes the process with these flags of clone(2).
    pub(crate) forerun: Option<u64>,
    /// Not in the agent's memory, and so with the agent's handling of signals to undo.
    pub(crate) apart: bool,
    /// A session keyring of this name is made or joined.
    pub(crate) keyring: Option<CString>,
    pub(crate) label: Option<Label>,
    pub(crate) affinity: Affinity,
}

/// Where the standard streams lead.
#[derive(Debug)]
pub(crate) enum Streams {
    /// Where the maker's lead.
    Inherited,
    /// To these descriptors; absent ones to `/dev/null`.
    Files([Option<RawFd>; 3]),
    /// To a terminal of this size.
    Terminal(Option<Size>),
}

/// What kind of process it becomes.
#[derive(Debug)]
pub(crate) enum Task {
    /// The first one of a container.
    Init(Box<Init>),
    /// One that joins a container.
    Exec {
        /// The container's first process.
        target: RawFd,
        /// The namespaces that this has for itself.
        namespaces: ThreadNameSpaceType,
        /// Its root directory, where its mount namespace has another one.
        root: Option<RawFd>,
    },
}

/// What the first process of a container does.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) namespaces: Namespaces,
    pub(crate) root: Root,
    pub(crate) scratch: PathBuf,
    pub(crate) entry: Entry,
    pub(crate) mounts: Mounts,
    pub(crate) nodes: Option<Nodes>,
    pub(crate) sysctls: Sysctls,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) read_only_paths: Vec<String>,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) read_only_root: bool,
    pub(crate) propagation: Option<MountPropagationFlags>,
    pub(crate) hooks: InitHooks,
    /// A listening socket: the process waits there for the one who starts it, not for its maker.
    pub(crate) gate: Option<RawFd>,
    /// Its process was made ahead: it is in its namespaces.
    pub(crate) ahead: Option<Ahead>,
}

/// What a container has of what was made ahead, beside its process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    /// How many of its mounts.
    pub(crate) mounts: usize,
    /// It wants no cgroup namespace: that of this process is the one that it wants to be in.
    pub(crate) leave: Option<RawFd>,
}

/// The hooks that a container's first process runs, or waits for.
#[derive(Debug, Default)]
pub(crate) struct InitHooks {
    /// Its maker has some to run before the root is entered.
    pub(crate) maker_has_some: bool,
    pub(crate) create_container: Vec<Hook>,
    pub(crate) start_container: Vec<Hook>,
    pub(crate) state: State,
    /// What `start_container` ones without an environment get.
    pub(crate) environment: Vec<String>,
}

/// The entry of a new process.
///
/// # Safety
/// `job` points to a [`Job`] that nothing else uses until the process has reported, and that lives until it has executed
/// its program or ended.
pub(crate) unsafe extern "C" fn run(job: *mut c_void) -> ! {
    // SAFETY: the caller vouches for the pointer.
    let job = unsafe { &mut *job.cast::<Job>() };
    let report = open_number(job.report);
    if let Some(flags) = job.forerun.take() {
        match job.forerun(flags, report) {
            Ok(()) => sys::exit(0),
            Err(error) => fail(report, error),
        }
    }
    if let Err(error) = job.affinity.apply_first() {
        fail(report, error);
    }
    if job.hold && !report::wait(report) {
        sys::exit(1);
    }
    if let Err(error) = job.enter_cgroup().and_then(|()| job.descriptors()) {
        fail(open_number(job.report), error);
    }
    let report = open_number(job.report);
    if let Err(error) = job.prepare(report) {
        fail(report, error);
    }
    if !report::wait(report) {
        sys::exit(1);
    }
    match &job.task {
        Task::Init(init) => init.wait_and_execute(report, &job.identity, &job.program),
        Task::Exec { .. } => {}
    }
    let errno = job.identity.seal().err().unwrap_or_else(|| job.program.execute());
    report::not_executed(report, errno);
    sys::exit(1)
}

/// A descriptor by its number: one that the [`Job`] names.
fn open_number(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: this process has a copy of what the job names, and `descriptors` keeps it until execve.
    unsafe { BorrowedFd::borrow_raw(number) }
}

pub(crate) fn fail(report: BorrowedFd<'_>, error: Error) -> ! {
    report::failed(report, &error);
    drop(error);
    sys::exit(1)
}

impl Job {
    /// Joins namespaces and makes the process in them, as a child of the maker. That waits until the maker knows of it.
    fn forerun(&mut self, flags: u64, report: BorrowedFd<'_>) -> Result<(), Error> {
        if let Task::Init(init) = &self.task {
            init.namespaces.join()?;
        }
        self.hold = true;
        let flags = flags | libc::CLONE_PARENT as u64;
        // SAFETY: `run` never returns, and the new process has a copy of the job and of all other memory.
        let cloned =
            unsafe { clone::clone(flags, None, None, run, std::ptr::from_mut(self).cast()) }
                .map_err(at("make", "the container's first process"))?;
        report::made(report, cloned.pidfd.as_fd())
    }

    fn enter_cgroup(&self) -> Result<(), Error> {
        self.doors.iter().try_for_each(|door| {
            rustix::io::write(open_number(*door), Cgroup::HERE)
                .map(drop)
                .map_err(at("enter", "the container's cgroup"))
        })
    }

    /// Standard streams, what the job names, what is preserved; nothing else of the maker's stays open.
    fn descriptors(&mut self) -> Result<(), Error> {
        let mut named = vec![&mut self.report];
        match &mut self.task {
            Task::Init(init) => {
                named.extend(&mut init.gate);
                named.extend(init.mounts.named());
                named.extend(init.sysctls.named());
                named.extend(init.ahead.as_mut().and_then(|ahead| ahead.leave.as_mut()));
            }
            Task::Exec { target, root, .. } => {
                named.push(target);
                named.extend(root);
            }
        }
        descriptors::arrange(&self.streams, self.preserved, named)
    }

    fn prepare(&mut self, report: BorrowedFd<'_>) -> Result<(), Error> {
        sys::unblock_signals().map_err(at("unblock", "signals"))?;
        if self.apart {
            // What the maker ignores, as Rust programs do, or in the background of a shell, or under nohup(1); clone3 has reset
            // the handled ones only.
            for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                sys::default_action(signal).map_err(at("reset", "a signal's action"))?;
            }
        }
        rustix::process::setsid().map_err(at("make", "a session"))?;
        if let Some(name) = &self.keyring {
            sys::join_session_keyring(name).map_err(at("join", "a session keyring"))?;
        }
        umask(Mode::empty());
        // Where `/proc` is still the outside's.
        let label = self.label.as_ref().map(Label::open).transpose()?;
        let console = match &self.task {
            Task::Init(init) => init.steps(&self.streams, &self.identity, report)?,
            Task::Exec { namespaces, target, root } => {
                join(*target, *namespaces, *root)?;
                terminal(&self.streams, self.identity.uid(), false)?
            }
        };
        if matches!(self.streams, Streams::Inherited | Streams::Files(_)) {
            descriptors::give_streams(self.identity.uid())?;
        }
        self.program.enter_directory(matches!(self.task, Task::Init(_)))?;
        if let Task::Init(init) = &self.task {
            init.seal()?;
        }
        self.affinity.apply_last()?;
        if let Some(label) = label {
            label.apply()?;
        }
        let (identity, program) = (&self.identity, &mut self.program);
        identity.assume(|| program.resolve(identity.uid().as_raw()))?;
        report::ready(report, console.as_ref().map(AsFd::as_fd))
    }
}

fn join(target: RawFd, namespaces: ThreadNameSpaceType, root: Option<RawFd>) -> Result<(), Error> {
    if !namespaces.is_empty() {
        rustix::thread::move_into_thread_name_spaces(open_number(target), namespaces)
            .map_err(at("join", "the container's namespaces"))?;
    }
    if namespaces.contains(ThreadNameSpaceType::USER) {
        become_root()?;
    }
    if let Some(root) = root {
        rustix::process::fchdir(open_number(root))
            .and_then(|()| rustix::process::chroot("."))
            .map_err(at("enter", "the container's root"))?;
    }
    Ok(())
}

/// In a user namespace that it has just come into, a process is nobody.
fn become_root() -> Result<(), Error> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .and_then(|()| rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
        .map_err(at("become", "root of the user namespace"))
}

fn terminal(streams: &Streams, uid: Uid, console: bool) -> Result<Option<OwnedFd>, Error> {
    match streams {
        Streams::Inherited | Streams::Files(_) => Ok(None),
        Streams::Terminal(size) => terminal::open(uid, *size, console).map(Some),
    }
}

impl Init {
    fn steps(
        &self,
        streams: &Streams,
        identity: &Identity,
        report: BorrowedFd<'_>,
    ) -> Result<Option<OwnedFd>, Error> {
        let shared =
            self.propagation.is_some_and(|kind| kind.contains(MountPropagationFlags::SHARED));
        if let Some(ahead) = &self.ahead {
            if let Some(maker) = ahead.leave {
                let kind = ThreadNameSpaceType::CONTROL_GROUP;
                rustix::thread::move_into_thread_name_spaces(open_number(maker), kind)
                    .map_err(at("go back to", "the agent's cgroup namespace"))?;
            }
        } else {
            if !self.namespaces.needs_forerunner() {
                self.namespaces.join()?;
            }
            self.namespaces.make()?;
            if self.entry != Entry::Chroot {
                mount::keep_apart(shared)?;
            }
        }
        self.names()?;
        let root = mount::prepare(&self.root, &self.scratch, self.entry, shared)?;
        let sources = self.mounts.open()?;
        let in_user = self.namespaces.has(NamespaceType::User);
        let originals = match &self.nodes {
            Some(nodes) if in_user => Some(nodes.originals()?),
            _ => None,
        };
        let fill = || {
            self.mounts.make(sources)?;
            if let Some(nodes) = &self.nodes {
                nodes.make(originals)?;
            }
            terminal(streams, identity.uid(), true)
        };
        let console;
        // In a user namespace a proc can be mounted only while another one is there to be seen (mount_namespaces(7)).
        if in_user || self.hooks.before_entry() {
            let outside = mount::Outside::look_in(&root)?;
            if in_user {
                // Until now it was the host's root to files, and so could open what only that can.
                become_root()?;
            }
            console = fill()?;
            let inside = outside.go_back()?;
            self.hooks.run_before_entry(report)?;
            rustix::process::fchdir(&inside).map_err(at("enter", root.display()))?;
            mount::enter(self.entry)?;
        } else {
            rustix::process::chdir(&root).map_err(at("enter", root.display()))?;
            mount::enter(self.entry)?;
            console = fill()?;
        }
        self.sysctls.apply()?;
        Ok(console)
    }

    fn names(&self) -> Result<(), Error> {
        if let Some(name) = &self.hostname {
            rustix::system::sethostname(name.as_bytes()).map_err(at("set the host name", name))?;
        }
        if let Some(name) = &self.domainname {
            rustix::system::setdomainname(name.as_bytes())
                .map_err(at("set the domain name", name))?;
        }
        if self.namespaces.flags & libc::CLONE_NEWNET as u64 != 0 {
            crate::network::loopback_up()?;
        }
        Ok(())
    }

    /// What must not be written or seen any more.
    fn seal(&self) -> Result<(), Error> {
        self.mounts.finish()?;
        mount::read_only(&self.read_only_paths)?;
        mount::mask(&self.masked_paths)?;
        if let Some(propagation) = self.propagation {
            rustix::mount::mount_change("/", propagation)
                .map_err(at("set", "linux.rootfsPropagation"))?;
        }
        if self.read_only_root {
            mount::set_read_only("/", false)?;
        }
        Ok(())
    }

    /// The last steps of a first process with a gate or with hooks; others come back.
    fn wait_and_execute(&self, report: BorrowedFd<'_>, identity: &Identity, program: &Program) {
        let connection = match self.gate.map(|gate| gate::wait(open_number(gate))) {
            None if self.hooks.start_container.is_empty() => return,
            None => None,
            Some(Ok(connection)) => Some(connection),
            Some(Err(_)) => sys::exit(1),
        };
        let starter = connection.as_ref().map_or(report, AsFd::as_fd);
        let sealed = identity.seal().map_err(at("install", "linux.seccomp"));
        if let Err(error) = sealed.and_then(|()| self.hooks.run_before_program()) {
            fail(starter, error);
        }
        fail(starter, program.error(program.execute()))
    }

    /// Namespaces that a process which joins the container has to join.
    pub(crate) fn own_namespaces(namespaces: &Namespaces) -> ThreadNameSpaceType {
        let mut own = ThreadNameSpaceType::empty();
        for (kind, flag) in [
            (NamespaceType::Mount, ThreadNameSpaceType::MOUNT),
            (NamespaceType::Ipc, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
            (NamespaceType::Network, ThreadNameSpaceType::NETWORK),
            (NamespaceType::Uts, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
            (NamespaceType::User, ThreadNameSpaceType::USER),
        ] {
            own.set(flag, namespaces.has(kind));
        }
        own.set(ThreadNameSpaceType::CONTROL_GROUP, namespaces.has_cgroup());
        own.set(ThreadNameSpaceType::TIME, namespaces.has_time());
        own
    }
}

impl InitHooks {
    /// Some hooks are run when the mounts are made, but the root is not yet entered.
    fn before_entry(&self) -> bool {
        self.maker_has_some || !self.create_container.is_empty()
    }

    fn run_before_entry(&self, report: BorrowedFd<'_>) -> Result<(), Error> {
        if self.maker_has_some {
            report::hooks(report)?;
            if !report::wait(report) {
                return Err(Error::state("whose first process this is", "has lost its maker"));
            }
        }
        hooks::run(&self.create_container, &self.json("creating"), "createContainer")
    }

    fn run_before_program(&self) -> Result<(), Error> {
        if self.start_container.is_empty() {
            // The filter of system calls, which is in force by now, need not allow what a hook takes.
            return Ok(());
        }
        let environment = Some(self.environment.as_slice());
        hooks::run_with(&self.start_container, &self.json("created"), "startContainer", environment)
    }

    /// The state, with this process's number in its own PID namespace (runtime.md, "State").
    fn json(&self, status: &str) -> Vec<u8> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        self.state.json(status, Some(pid))
    }
}
