//! The containers of this agent and the processes in them, by their names and by their pids.

use std::{collections::BTreeMap, os::fd::OwnedFd, rc::Rc};

use bulkhead_container::{Cgroup, Container, Error, OomEvents, Process};
use bulkhead_protocol::{ExitStatus, Exited, Target};
use rustix::{event::epoll::EventFlags, process::Pid};

use crate::{
    events::{Events, Source},
    relay::Meter,
};

/// A container and those who joined it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) container: Container,
    pub(crate) terminal: Option<Rc<OwnedFd>>,
    pub(crate) execs: BTreeMap<String, Joined>,
    /// Its processes are frozen because the monitor wants it.
    pub(crate) paused: bool,
    memory: Option<(u32, OomEvents)>,
    meters: Meters,
}

/// How much a process has written to its main stream and to standard error.
pub(crate) type Meters = [Option<Meter>; 2];

/// A process that joined a container.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) process: Process,
    pub(crate) terminal: Option<Rc<OwnedFd>>,
    pub(crate) meters: Meters,
}

/// All containers, by id.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    containers: BTreeMap<String, Entry>,
    last_watch: u32,
}

/// A process that can be asked for something.
pub(crate) struct Found<'a> {
    pub(crate) process: &'a Process,
    pub(crate) terminal: Option<&'a Rc<OwnedFd>>,
    meters: &'a mut Meters,
}

impl Found<'_> {
    pub(crate) fn set_meters(&mut self, meters: Meters) {
        *self.meters = meters;
    }
}

impl Entry {
    /// Its processes are frozen, by the monitor's wish or, where they may, by their own.
    pub(crate) fn is_frozen(&self) -> bool {
        self.paused || self.container.cgroup().is_some_and(Cgroup::is_frozen)
    }

    /// Ends a pause, if there is one.
    pub(crate) fn thaw(&mut self) -> Result<(), Error> {
        if let Some(cgroup) = self.container.cgroup().filter(|_| self.paused) {
            cgroup.thaw()?;
            self.paused = false;
        }
        Ok(())
    }
}

impl Processes {
    pub(crate) fn len(&self) -> usize {
        self.containers.len()
    }

    pub(crate) fn contains(&self, container: &str) -> bool {
        self.containers.contains_key(container)
    }

    pub(crate) fn add(&mut self, container: Container, terminal: Option<Rc<OwnedFd>>) {
        let (execs, meters) = (BTreeMap::new(), Meters::default());
        let entry = Entry { container, terminal, execs, paused: false, memory: None, meters };
        self.containers.insert(entry.container.id().to_owned(), entry);
    }

    pub(crate) fn remove(&mut self, container: &str) {
        self.containers.remove(container);
    }

    /// # Errors
    /// [`Error::State`] when there is none of this id.
    pub(crate) fn entry(&mut self, container: &str) -> Result<&mut Entry, Error> {
        self.containers.get_mut(container).ok_or_else(|| missing(container, "does not exist"))
    }

    /// # Errors
    /// [`Error::State`] when there is none of this name, or it has ended.
    pub(crate) fn find(&mut self, target: &Target) -> Result<Found<'_>, Error> {
        let entry = self.entry(&target.container)?;
        let Some(name) = &target.exec else {
            if entry.container.is_stopped() {
                return Err(missing(&target.container, "has stopped"));
            }
            return Ok(Found {
                process: entry.container.init(),
                terminal: entry.terminal.as_ref(),
                meters: &mut entry.meters,
            });
        };
        let missing = || missing(&target.container, "has no such process");
        let joined = entry.execs.get_mut(name).ok_or_else(missing)?;
        let Joined { process, terminal, meters } = joined;
        Ok(Found { process, terminal: terminal.as_ref(), meters })
    }

    /// Begins to watch the memory of a container that has a control group.
    pub(crate) fn watch(&mut self, container: &str, events: &Events) -> Result<(), Error> {
        let number = self.last_watch.wrapping_add(1);
        let Some(entry) = self.containers.get_mut(container) else { return Ok(()) };
        let Some(cgroup) = entry.container.cgroup() else { return Ok(()) };
        let watch = cgroup.oom_events()?;
        let changes = EventFlags::from_bits_retain(u32::from(watch.changes().bits()));
        events.add_changes(watch.fd(), changes, Source::Memory(number)).map_err(|errno| {
            Error::System {
                action: "watch the memory of container",
                what: container.to_owned(),
                errno,
            }
        })?;
        entry.memory = Some((number, watch));
        self.last_watch = number;
        Ok(())
    }

    /// What a watch has to say: the container and how many of its processes were killed since it last said so.
    pub(crate) fn oom_kills(&mut self, number: u32) -> Option<(String, u64)> {
        let watched =
            |entry: &&mut Entry| entry.memory.as_ref().is_some_and(|(watch, _)| *watch == number);
        let entry = self.containers.values_mut().find(watched)?;
        let kills = entry.memory.as_mut().and_then(|(_, watch)| watch.take());
        if kills.is_none() {
            // The group is gone.
            entry.memory = None;
        }
        kills.filter(|count| *count > 0).map(|count| (entry.container.id().to_owned(), count))
    }

    /// Notes that a process was reaped; `None` when it was nobody's.
    pub(crate) fn exited(&mut self, pid: Pid, status: ExitStatus) -> Option<Exited> {
        self.containers.iter_mut().find_map(|(id, entry)| {
            let is_first = entry.container.init().pid() == pid && !entry.container.is_stopped();
            let (exec, meters) = if is_first {
                entry.container.stopped();
                entry.terminal = None;
                entry.memory = None;
                (None, std::mem::take(&mut entry.meters))
            } else {
                let ended = entry.execs.iter().find(|(_, joined)| joined.process.pid() == pid);
                let name = ended.map(|(name, _)| name.clone())?;
                let joined = entry.execs.remove(&name)?;
                (Some(name), joined.meters)
            };
            let target = Target { container: id.clone(), exec };
            let written = meters.map(|meter| meter.map_or(0, |meter| meter.written()));
            Some(Exited { target, status, oom_killed: entry.container.oom_killed(), written })
        })
    }

    /// Kills all processes of all containers.
    pub(crate) fn kill(&self) {
        for entry in self.containers.values() {
            // It may have stopped, and what has no cgroup is killed one by one.
            if entry.container.signal_all(libc::SIGKILL).is_err() {
                let _ = entry.container.init().signal(libc::SIGKILL);
                for joined in entry.execs.values() {
                    let _ = joined.process.signal(libc::SIGKILL);
                }
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.containers.values()
    }
}

fn missing(container: &str, why: &'static str) -> Error {
    Error::State { container: container.to_owned(), why }
}
