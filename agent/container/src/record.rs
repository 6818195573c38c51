//! A container that outlives its maker, as other processes know it: kept in a file, and good for everything that can be
//! asked of a container.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use bulkhead_protocol::Stats;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags},
    thread::ThreadNameSpaceType,
};
use serde::{Deserialize, Serialize};

use crate::{
    builder::{Builder, Joined, Platform, Stdio},
    cgroup::Cgroup,
    container::Facts,
    error::{Error, at},
    gate,
    mount::RootMount,
    procfs, spec, sys,
};

/// All that another process needs to know of a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub(crate) id: String,
    pid: i32,
    /// Clock ticks since the machine's boot: with the pid, they name the process (proc(5), `starttime`).
    start_time: u64,
    pub(crate) facts: Facts,
    #[serde(with = "group")]
    pub(crate) cgroup: Option<Cgroup>,
}

impl Record {
    pub(crate) fn new(
        id: &str,
        pid: Pid,
        start_time: u64,
        facts: Facts,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self { id: id.to_owned(), pid: pid.as_raw_nonzero().get(), start_time, facts, cgroup }
    }

    /// The first process's number, which may be another process's by now: see [`Record::is_alive`].
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The first process is there and has not ended.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn is_alive(&self) -> Result<bool, Error> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(false) };
        Ok(procfs::born(pid)?
            .is_some_and(|born| born.start_time == self.start_time && !born.has_ended))
    }

    /// The first process, by a descriptor that stays with it.
    pub(crate) fn open(&self) -> Result<OwnedFd, Error> {
        let stopped = || Error::state(&self.id, "has stopped");
        let pid = Pid::from_raw(self.pid).ok_or_else(stopped)?;
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Err(stopped()),
            opened => opened.map_err(at("open process", pid.as_raw_nonzero()))?,
        };
        // Whoever had this number when it was opened, has it still.
        if self.is_alive()? { Ok(pidfd) } else { Err(stopped()) }
    }

    /// The first process waits to be started at `socket`, to which the gate of [`Builder::detached`] is bound.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn is_waiting(&self, socket: &Path) -> Result<bool, Error> {
        Ok(gate::is_waited_at(socket)? && self.is_alive()?)
    }

    /// Lets the first process, which waits at `socket`, run its `startContainer` hooks and execute its program.
    ///
    /// # Errors
    /// [`Error::State`] when it does not wait, [`Error::Hook`]'s text, [`Error::ProgramNotFound`]'s or another's as
    /// [`Error::Child`]: the process has ended then.
    pub fn start(&self, socket: &Path) -> Result<(), Error> {
        drop(self.open()?);
        gate::open(&self.id, socket)
    }

    /// Signals the first process.
    ///
    /// # Errors
    /// [`Error::State`] when it has ended; [`Error::System`].
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        sys::pidfd_send_signal(self.open()?.as_fd(), signal).map_err(at("signal process", self.pid))
    }

    /// Signals every process of the container.
    ///
    /// # Errors
    /// [`Error::State`] when they cannot be found: the first process has ended and there is no cgroup.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        match &self.cgroup {
            Some(cgroup) => cgroup.signal_all(signal),
            // The kernel then kills the others.
            None if signal == libc::SIGKILL && self.facts.pid_namespace => self.signal(signal),
            None => Err(Error::state(
                &self.id,
                "has no cgroup by which its processes could be found; signal them one by one",
            )),
        }
    }

    /// Freezes every process; [`Record::thaw`] lets them go on.
    ///
    /// # Errors
    /// [`Error::State`] without a cgroup; [`Error::System`].
    pub fn freeze(&self) -> Result<(), Error> {
        self.group()?.freeze()
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// As [`Record::freeze`].
    pub fn thaw(&self) -> Result<(), Error> {
        self.group()?.thaw()
    }

    /// The processes are frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::is_frozen)
    }

    /// Changes limits ([`Cgroup::update`]).
    ///
    /// # Errors
    /// As [`Cgroup::update`]; [`Error::State`] without a cgroup.
    pub fn update(&self, resources: &spec::Resources) -> Result<Vec<String>, Error> {
        self.group()?.update(resources)
    }

    /// What the container uses ([`Cgroup::stats`]).
    ///
    /// # Errors
    /// [`Error::State`] without a cgroup.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.group().map(Cgroup::stats)
    }

    /// The numbers of its processes on this host.
    ///
    /// # Errors
    /// [`Error::System`]; [`Error::State`] without a cgroup.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        self.group()?.processes()
    }

    /// Its control group; absent where no hierarchy is mounted.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    fn group(&self) -> Result<&Cgroup, Error> {
        let why = "has no cgroup, because this system has none mounted";
        self.cgroup.as_ref().ok_or_else(|| Error::state(&self.id, why))
    }

    /// Ends what is left of the container's processes and removes what was made for it. Can be repeated.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn remove(&self) -> Result<(), Error> {
        match self.signal(libc::SIGKILL) {
            Ok(()) | Err(Error::State { .. }) => {}
            Err(error) => return Err(error),
        }
        self.facts.root_mount.as_ref().map_or(Ok(()), RootMount::remove)?;
        self.cgroup.as_ref().map_or(Ok(()), Cgroup::remove)
    }

    /// Runs one more process in the container ([`Builder::join`]).
    ///
    /// # Errors
    /// As [`Builder::join`].
    pub fn exec(
        &self,
        platform: &Platform,
        stdio: Stdio,
        process: &spec::Process,
    ) -> Result<Joined, Error> {
        Builder::new(platform, stdio).join(self, process)
    }
}

/// A cgroup as its record.
mod group {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::cgroup::{Cgroup, CgroupRecord};

    pub(super) fn serialize<S: Serializer>(
        cgroup: &Option<Cgroup>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        cgroup.as_ref().map(Cgroup::record).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Cgroup>, D::Error> {
        Ok(Option::<CgroupRecord>::deserialize(deserializer)?.map(Cgroup::open))
    }
}

/// [`ThreadNameSpaceType`] as a number.
pub(crate) mod namespaces {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::ThreadNameSpaceType;

    pub(crate) fn serialize<S: Serializer>(
        namespaces: &ThreadNameSpaceType,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(namespaces.bits())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ThreadNameSpaceType, D::Error> {
        u32::deserialize(deserializer).map(ThreadNameSpaceType::from_bits_retain)
    }
}
