//! Brings a new process to the point where it waits to execute its program, and then lets it.

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{process::Pid, thread::ThreadNameSpaceType};

use crate::{
    affinity::Affinity,
    builder::Platform,
    cgroup::Cgroup,
    child::{self, Job, Streams, Task},
    clone::{self, Stack},
    container::Process,
    error::{Error, Kind, at},
    identity::Identity,
    lsm::Label,
    namespace::Namespaces,
    procfs,
    program::Program,
    report::{self, Report},
    rlimit::Limits,
    spare::{self, Spare, Waiting},
};

/// How a process is made.
pub(crate) struct Launch<'a> {
    pub(crate) platform: &'a Platform,
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// It shares the agent's memory until it executes its program.
    pub(crate) share: bool,
    pub(crate) oom_score_adj: Option<i32>,
    /// Limits that the process may not set itself.
    pub(crate) limits: Limits,
    /// Runs the maker's hooks for the process of this number.
    pub(crate) hooks: Option<&'a dyn Fn(Pid) -> Result<(), Error>>,
}

/// What a process does.
pub(crate) struct Work {
    pub(crate) streams: Streams,
    pub(crate) task: Task,
    pub(crate) identity: Identity,
    pub(crate) program: Program,
    pub(crate) preserved: u32,
    pub(crate) keyring: Option<CString>,
    pub(crate) label: Option<Label>,
    pub(crate) affinity: Affinity,
    /// What `streams` and `task` name by number.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A process that waits.
pub(crate) struct Launched {
    pub(crate) process: Process,
    pub(crate) pending: Pending,
    pub(crate) console: Option<OwnedFd>,
}

/// A process that waits to execute its program, and what it needs until then.
#[derive(Debug)]
pub(crate) struct Pending {
    report: OwnedFd,
    job: OwnedJob,
    _stack: Option<Stack>,
}

/// A job that a process which shares this one's memory may be using. Dropped when that has executed its program or ended.
#[derive(Debug)]
struct OwnedJob(*mut Job);

impl Drop for OwnedJob {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw`, and nobody uses it any more.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl Launch<'_> {
    /// Makes the first process of a container.
    pub(crate) fn init(&self, work: Work, namespaces: &Namespaces) -> Result<Launched, Error> {
        let Some(pid) = &namespaces.pid else { return self.run(work, namespaces) };
        pid.for_children()?;
        let launched = self.run(work, namespaces);
        self.leave()?;
        launched
    }

    /// Makes a process that joins a container, in its PID namespace when it has one of its own.
    pub(crate) fn exec(
        &self,
        work: Work,
        target: Option<BorrowedFd<'_>>,
    ) -> Result<Launched, Error> {
        let Some(target) = target else { return self.run(work, &Namespaces::default()) };
        rustix::thread::move_into_thread_name_spaces(target, ThreadNameSpaceType::PROCESS_ID)
            .map_err(at("join", "the container's PID namespace"))?;
        let launched = self.run(work, &Namespaces::default());
        self.leave()?;
        launched
    }

    /// Later processes are to be made in the agent's own PID namespace again.
    fn leave(&self) -> Result<(), Error> {
        rustix::thread::move_into_thread_name_spaces(
            self.platform.own_process.as_fd(),
            ThreadNameSpaceType::PROCESS_ID,
        )
        .map_err(at("go back to", "the agent's PID namespace"))
    }

    /// Has a process that was made ahead do it. `other_group`: it is in another group than the container's.
    pub(crate) fn take(
        &self,
        work: Work,
        ahead: Spare,
        other_group: bool,
    ) -> Result<Launched, Error> {
        if let (true, Some(cgroup), Some(pid)) = (other_group, self.cgroup, ahead.pid()) {
            cgroup.take_in(pid)?;
        }
        let Some(ahead) = ahead.into_waiting() else { return Err(spare::died()) };
        let (job, descriptors) = Job::of(work, ahead.theirs());
        let job = OwnedJob(Box::into_raw(Box::new(job)));
        let given = ahead.give(job.0).map_err(|_| spare::died());
        let heard = given.and_then(|()| self.hear(&ahead.process, &ahead.report));
        // The new process has its own copies.
        drop(descriptors);
        let Waiting { process, report, stack, .. } = ahead;
        match heard {
            Ok(console) => {
                let pending = Pending { report, job, _stack: Some(stack) };
                Ok(Launched { process, pending, console })
            }
            Err(error) => {
                process.end();
                Err(error)
            }
        }
    }

    fn run(&self, work: Work, namespaces: &Namespaces) -> Result<Launched, Error> {
        let (report, theirs) = report::pair()?;
        let stack =
            if self.share { Some(Stack::new().map_err(at("make", "a stack"))?) } else { None };
        let (job, descriptors) = Job::of(work, theirs.as_raw_fd());
        let doors = self.cgroup.map_or(Ok(Vec::new()), Cgroup::doors)?;
        let hold = namespaces.new_user() || namespaces.needs_forerunner();
        let forerun = namespaces.needs_forerunner().then_some(namespaces.flags);
        let job = Job {
            doors: doors.iter().map(AsRawFd::as_raw_fd).collect(),
            hold,
            forerun,
            apart: !self.share,
            ..job
        };
        let job = OwnedJob(Box::into_raw(Box::new(job)));
        let group = self.cgroup.map(Cgroup::dir).transpose()?.flatten();
        let flags = if forerun.is_some() { 0 } else { namespaces.flags };
        // SAFETY: `child::run` never returns. The job and the stack live in `Pending` until the process has executed its
        // program or ended. This process waits for the report before it goes on, and after that the other one makes only
        // the system calls of waiting, executing and ending.
        let cloned =
            unsafe { clone::clone(flags, group, stack.as_ref(), child::run, job.0.cast()) };
        // The new process has its own copies.
        drop((theirs, descriptors, doors));
        let cloned = cloned.map_err(at("make", "a process"))?;
        let mut process = Process::new(cloned.pid, cloned.pidfd);
        if forerun.is_some() {
            process = Self::made(&process, &report)?;
        }
        let prepared = || {
            if namespaces.new_user() {
                namespaces.map_ids(process.pid())?;
            }
            if hold { report::go(&report) } else { Ok(()) }
        };
        match prepared().and_then(|()| self.hear(&process, &report)) {
            Ok(console) => {
                let pending = Pending { report, job, _stack: stack };
                Ok(Launched { process, pending, console })
            }
            Err(error) => {
                process.end();
                Err(error)
            }
        }
    }

    /// The process that a forerunner makes.
    fn made(forerunner: &Process, report: &OwnedFd) -> Result<Process, Error> {
        let heard = report::receive(report);
        // It has nothing more to do.
        forerunner.end();
        match heard? {
            Report::Made(pidfd) => Ok(Process::new(procfs::pid_of(pidfd.as_fd())?, pidfd)),
            Report::Failed(error) => Err(error),
            _ => Err(Error::Child {
                kind: Kind::System,
                message: "the process that joins namespaces died".to_owned(),
            }),
        }
    }

    fn hear(&self, process: &Process, report: &OwnedFd) -> Result<Option<OwnedFd>, Error> {
        loop {
            match report::receive(report)? {
                Report::Hooks => {
                    self.hooks.map_or(Ok(()), |run| run(process.pid()))?;
                    report::go(report)?;
                }
                Report::Ready(console) => {
                    self.limits.apply_to(process.pid())?;
                    if let Some(score) = self.oom_score_adj {
                        procfs::write(process.pid(), "oom_score_adj", &score.to_string())?;
                    }
                    return Ok(console);
                }
                Report::Failed(error) => return Err(error),
                Report::Made(_) | Report::NotExecuted(_) | Report::Closed => {
                    return Err(Error::Child {
                        kind: Kind::System,
                        message: "the new process died before its program could run".to_owned(),
                    });
                }
            }
        }
    }
}

impl Job {
    /// A job in the maker's memory, and what has to stay open until its process has it. `report`: the process's number.
    fn of(work: Work, report: RawFd) -> (Self, Vec<OwnedFd>) {
        let Work {
            streams,
            task,
            identity,
            program,
            preserved,
            keyring,
            label,
            affinity,
            descriptors,
        } = work;
        let job = Self {
            report,
            doors: Vec::new(),
            streams,
            preserved,
            task,
            identity,
            program,
            hold: false,
            forerun: None,
            apart: false,
            keyring,
            label,
            affinity,
        };
        (job, descriptors)
    }
}

impl Pending {
    /// Lets the process execute its program.
    ///
    /// # Errors
    /// [`Error::ProgramNotFound`], [`Error::ProgramNotExecutable`] or [`Error::System`]; the process is gone then.
    pub(crate) fn start(self) -> Result<(), Error> {
        report::go(&self.report)?;
        match report::receive(&self.report)? {
            Report::NotExecuted(errno) => {
                // SAFETY: the process has made its last report; it ends without looking at the job.
                let job = unsafe { &*self.job.0 };
                Err(job.program.error(errno))
            }
            Report::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Lets the process wait at its gate; it does not end with its maker any more.
    pub(crate) fn commit(self) -> Result<(), Error> {
        report::go(&self.report)
    }
}
