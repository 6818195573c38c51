//! A container that was made, and the processes in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions},
    thread::ThreadNameSpaceType,
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::Cgroup,
    error::{Error, at},
    launch::Pending,
    mount::RootMount,
    seccomp::Filter,
    sys,
};

/// A process that the engine made; its maker reaps it.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    id: String,
    init: Process,
    cgroup: Option<Cgroup>,
    state: State,
    facts: Facts,
    can_trace: bool,
}

/// What a process that joins the container has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    #[serde(with = "crate::record::namespaces")]
    pub(crate) namespaces: ThreadNameSpaceType,
    /// The container has a PID namespace that is not the agent's.
    pub(crate) pid_namespace: bool,
    /// Its root is not the root of its mount namespace.
    pub(crate) chroot: bool,
    /// A mount of the root in the maker's own mount namespace.
    #[serde(default)]
    pub(crate) root_mount: Option<RootMount>,
    /// A session keyring of the container's name is joined.
    pub(crate) keyring: bool,
    #[serde(default)]
    pub(crate) personality: Option<u32>,
    pub(crate) filter: Option<Filter>,
}

/// The container's state (OCI runtime-spec, "State").
#[derive(Debug)]
enum State {
    Created(Pending),
    Running,
    Stopped,
}

impl Process {
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its number where the engine runs.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal, 1 to 64.
    ///
    /// # Errors
    /// [`Error::System`]; `ESRCH` when it has been reaped.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        sys::pidfd_send_signal(self.pidfd.as_fd(), signal)
            .map_err(at("signal process", self.pid.as_raw_nonzero()))
    }

    /// Kills it and takes its status, which nobody else is to hear of.
    pub(crate) fn end(&self) {
        // It may have ended by itself; then there is only the status to take.
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let wait = || {
            let id = WaitId::PidFd(self.pidfd.as_fd());
            rustix::process::waitid(id, WaitIdOptions::EXITED)
        };
        while matches!(wait(), Err(Errno::INTR)) {}
    }
}

impl Container {
    pub(crate) fn new(
        id: String,
        init: Process,
        cgroup: Option<Cgroup>,
        pending: Pending,
        facts: Facts,
        can_trace: bool,
    ) -> Self {
        Self { id, init, cgroup, state: State::Created(pending), facts, can_trace }
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its first process.
    #[must_use]
    pub fn init(&self) -> &Process {
        &self.init
    }

    /// Lets the first process execute its program.
    ///
    /// # Errors
    /// [`Error::State`] unless the container is created; what execve says otherwise, and the process is gone then.
    pub fn start(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.state, State::Running) {
            State::Created(pending) => pending.start(),
            State::Running => Err(Error::state(&self.id, "is running already")),
            State::Stopped => {
                self.state = State::Stopped;
                Err(Error::state(&self.id, "has stopped"))
            }
        }
    }

    /// Notes that the first process was reaped, and kills what it may have left behind.
    pub fn stopped(&mut self) {
        self.state = State::Stopped;
        if !self.facts.pid_namespace {
            // Otherwise the kernel has done it (pid_namespaces(7)).
            if let Some(cgroup) = &self.cgroup {
                // Nothing can be done when it fails; the group then cannot be removed, which is reported.
                let _ = cgroup.signal_all(libc::SIGKILL);
            }
        }
    }

    /// The first process was reaped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// Signals every process of the container.
    ///
    /// # Errors
    /// [`Error::State`] when it has stopped; [`Error::System`].
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        match (&self.cgroup, &self.state) {
            (_, State::Stopped) => Err(Error::state(&self.id, "has stopped")),
            // The kernel then kills the others.
            (None, _) if signal == libc::SIGKILL && self.facts.pid_namespace => {
                self.init.signal(signal)
            }
            (Some(cgroup), _) => cgroup.signal_all(signal),
            (None, _) => Err(Error::state(
                &self.id,
                "has no cgroup by which its processes could be found; signal them one by one",
            )),
        }
    }

    /// The memory limit killed a process of the container.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::oom_killed)
    }

    /// Removes what is left of a stopped container.
    ///
    /// # Errors
    /// [`Error::State`] when it has not stopped; [`Error::System`].
    pub fn delete(&self) -> Result<(), Error> {
        if !self.is_stopped() {
            return Err(Error::state(&self.id, "has not stopped; kill it first"));
        }
        self.facts.root_mount.as_ref().map_or(Ok(()), RootMount::remove)?;
        self.cgroup.as_ref().map_or(Ok(()), Cgroup::remove)
    }

    /// Its control group; absent where no hierarchy is mounted.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The first process, when its program runs. Before that, nobody may join: they could reach into its memory.
    pub(crate) fn running(&self) -> Result<BorrowedFd<'_>, Error> {
        match self.state {
            State::Running => Ok(self.init.pidfd.as_fd()),
            State::Created(_) => Err(Error::state(&self.id, "has not been started")),
            State::Stopped => Err(Error::state(&self.id, "has stopped")),
        }
    }

    /// Some process of the container can look into the memory of the others.
    pub(crate) fn can_trace(&self) -> bool {
        self.can_trace
    }

    pub(crate) fn set_can_trace(&mut self) {
        self.can_trace = true;
    }
}
