//! The new process, from its first instruction to its program: two linear lists of named steps, one for a container's
//! first process and one for a process that joins it. It may share the agent's memory while the agent waits, so all that
//! outlives a step is in the [`Job`], which is the agent's.

use std::{
    ffi::c_void,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
};

use rustix::{
    fs::{Mode, OFlags, Uid},
    io::Errno,
    process::umask,
    thread::{Gid, ThreadNameSpaceType},
};

use crate::{
    error::{Error, at},
    identity::Identity,
    mount::{self, Mounts, Nodes, Root},
    namespace::Namespaces,
    program::Program,
    report,
    spec::NamespaceType,
    sys,
    sysctl::Sysctls,
    terminal::{self, Size},
};

/// The process's end of the reports, once the steps have begun.
const REPORT: RawFd = 3;
/// The container's first process, for one that joins it.
const TARGET: RawFd = 4;

/// All that the process needs to know.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) report: RawFd,
    /// Its maker has something to do before it goes on.
    pub(crate) waits: bool,
    pub(crate) streams: Streams,
    pub(crate) task: Task,
    pub(crate) identity: Identity,
    pub(crate) program: Program,
}

/// Where the standard streams lead.
#[derive(Debug)]
pub(crate) enum Streams {
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
    /// One that joins a container: its first process, the namespaces that this has for itself.
    Exec { target: RawFd, namespaces: ThreadNameSpaceType },
}

/// What the first process of a container does.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) namespaces: Namespaces,
    pub(crate) root: Root,
    pub(crate) scratch: PathBuf,
    pub(crate) mounts: Mounts,
    pub(crate) nodes: Option<Nodes>,
    pub(crate) sysctls: Sysctls,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) read_only_paths: Vec<String>,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) read_only_root: bool,
    pub(crate) propagation: Option<rustix::mount::MountPropagationFlags>,
}

/// The entry of a new process.
///
/// # Safety
/// `job` points to a [`Job`] that nothing else uses until the process has reported, and that lives until it has executed
/// its program or ended.
pub(crate) unsafe extern "C" fn run(job: *mut c_void) -> ! {
    // SAFETY: the caller vouches for the pointer.
    let job = unsafe { &mut *job.cast::<Job>() };
    if let Err(error) = descriptors(job) {
        fail(open_number(job.report), error);
    }
    let report = open_number(REPORT);
    if let Err(error) = prepare(job, report) {
        fail(report, error);
    }
    if report::wait(report) {
        report::not_executed(report, job.program.execute());
    }
    sys::exit(1)
}

/// A descriptor by its number: one that the [`Job`] names, or that `descriptors` has put in its place.
fn open_number(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: this process has a copy of what the job names until `descriptors` is through, and what that has put in place
    // stays until execve.
    unsafe { BorrowedFd::borrow_raw(number) }
}

fn fail(report: BorrowedFd<'_>, error: Error) -> ! {
    report::failed(report, &error);
    drop(error);
    sys::exit(1)
}

fn prepare(job: &mut Job, report: BorrowedFd<'_>) -> Result<(), Error> {
    sys::unblock_signals().map_err(at("unblock", "signals"))?;
    rustix::process::setsid().map_err(at("make", "a session"))?;
    umask(Mode::empty());
    if job.waits && !report::wait(report) {
        return Err(Error::state("", "lost its agent"));
    }
    let console = match &job.task {
        Task::Init(init) => init.steps(&job.streams, &job.identity)?,
        Task::Exec { namespaces, .. } => {
            join(*namespaces)?;
            terminal(&job.streams, job.identity.uid(), false)?
        }
    };
    job.program.enter_directory(matches!(job.task, Task::Init(_)))?;
    if let Task::Init(init) = &job.task {
        init.seal()?;
    }
    let (identity, program) = (&job.identity, &mut job.program);
    identity.assume(|| program.resolve(identity.uid().as_raw()))?;
    report::ready(report, console.as_ref().map(AsFd::as_fd))
}

/// Standard streams, the report's end, the target; nothing else of the agent's stays open.
fn descriptors(job: &Job) -> Result<(), Error> {
    // Out of the way of the numbers that are wanted.
    let high = |fd: RawFd| rustix::io::fcntl_dupfd_cloexec(open_number(fd), 64);
    let report = high(job.report).map_err(at("move", "a descriptor"))?;
    let target = match &job.task {
        Task::Exec { target, .. } => Some(high(*target).map_err(at("move", "a descriptor"))?),
        Task::Init(_) => None,
    };
    if let Streams::Files(files) = &job.streams {
        for (number, file) in (0..).zip(files) {
            stream(number, file.map(open_number), job.identity.uid())?;
        }
    }
    place(&report, REPORT).map_err(at("move", "a descriptor"))?;
    let mut first = TARGET;
    if let Some(target) = &target {
        place(target, TARGET).map_err(at("move", "a descriptor"))?;
        first += 1;
    }
    std::mem::forget((report, target));
    sys::close_from(first.cast_unsigned()).map_err(at("close", "descriptors"))
}

fn stream(number: RawFd, file: Option<BorrowedFd<'_>>, uid: Uid) -> Result<(), Error> {
    let Some(file) = file else {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(at("open", "/dev/null"))?;
        return duplicate(null.as_fd(), number)
            .map_err(at("make a standard stream of", "/dev/null"));
    };
    if uid != Uid::ROOT {
        // So that the program can open /dev/stdout and its like again.
        rustix::fs::fchown(file, Some(uid), None).map_err(at("give away", "a standard stream"))?;
    }
    duplicate(file, number).map_err(at("make a standard stream of", "a pipe"))
}

fn duplicate(file: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    match number {
        0 => rustix::stdio::dup2_stdin(file),
        1 => rustix::stdio::dup2_stdout(file),
        _ => rustix::stdio::dup2_stderr(file),
    }
}

/// Puts a copy at this number, to be closed by execve, whatever was there before.
fn place(file: &OwnedFd, number: RawFd) -> Result<(), Errno> {
    let flags = libc::O_CLOEXEC.unsigned_abs() as usize;
    // SAFETY: no pointers; in this process, the descriptor that was there belongs to nobody any more.
    unsafe {
        sys::syscall(libc::SYS_dup3, [sys::fd(file.as_raw_fd()), sys::fd(number), flags, 0, 0])
    }
    .map(drop)
}

fn join(namespaces: ThreadNameSpaceType) -> Result<(), Error> {
    rustix::thread::move_into_thread_name_spaces(open_number(TARGET), namespaces)
        .map_err(at("join", "the container's namespaces"))
}

fn terminal(streams: &Streams, uid: Uid, console: bool) -> Result<Option<OwnedFd>, Error> {
    match streams {
        Streams::Files(_) => Ok(None),
        Streams::Terminal(size) => terminal::open(uid, *size, console).map(Some),
    }
}

impl Init {
    fn steps(&self, streams: &Streams, identity: &Identity) -> Result<Option<OwnedFd>, Error> {
        self.become_root()?;
        self.namespaces.enter()?;
        self.names()?;
        let root = mount::prepare(&self.root, &self.scratch)?;
        let sources = self.mounts.open()?;
        let originals = match &self.nodes {
            Some(nodes) if self.namespaces.new_user() => Some(nodes.originals()?),
            _ => None,
        };
        mount::enter(&root)?;
        self.mounts.make(sources)?;
        if let Some(nodes) = &self.nodes {
            nodes.make(originals)?;
        }
        let console = terminal(streams, identity.uid(), true)?;
        self.sysctls.apply()?;
        Ok(console)
    }

    /// In a new user namespace, a process is nobody until its maker has written the maps.
    fn become_root(&self) -> Result<(), Error> {
        if !self.namespaces.new_user() {
            return Ok(());
        }
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
            .and_then(|()| rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
            .map_err(at("become", "root of the user namespace"))
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

    /// Namespaces that a process which joins the container has to join.
    pub(crate) fn own_namespaces(namespaces: &Namespaces) -> ThreadNameSpaceType {
        let mut own = ThreadNameSpaceType::MOUNT;
        for (kind, flag) in [
            (NamespaceType::Ipc, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
            (NamespaceType::Network, ThreadNameSpaceType::NETWORK),
            (NamespaceType::Uts, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
            (NamespaceType::User, ThreadNameSpaceType::USER),
        ] {
            own.set(flag, namespaces.has(kind));
        }
        own.set(ThreadNameSpaceType::CONTROL_GROUP, namespaces.has_cgroup());
        own.set(ThreadNameSpaceType::TIME, namespaces.time.is_some());
        own
    }
}
