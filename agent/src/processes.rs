//! The containers of this agent and the processes in them, by their names and by their pids.

use std::{collections::BTreeMap, os::fd::OwnedFd, rc::Rc};

use bulkhead_container::{Container, Error, Process};
use bulkhead_protocol::{ExitStatus, Exited, Target};
use rustix::process::Pid;

/// A container and those who joined it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) container: Container,
    pub(crate) terminal: Option<Rc<OwnedFd>>,
    pub(crate) execs: BTreeMap<String, Joined>,
}

/// A process that joined a container.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) process: Process,
    pub(crate) terminal: Option<Rc<OwnedFd>>,
}

/// All containers, by id.
#[derive(Debug, Default)]
pub(crate) struct Processes(BTreeMap<String, Entry>);

/// A process that can be asked for something.
pub(crate) struct Found<'a> {
    pub(crate) process: &'a Process,
    pub(crate) terminal: Option<&'a Rc<OwnedFd>>,
}

impl Processes {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, container: &str) -> bool {
        self.0.contains_key(container)
    }

    pub(crate) fn add(&mut self, container: Container, terminal: Option<Rc<OwnedFd>>) {
        let entry = Entry { container, terminal, execs: BTreeMap::new() };
        self.0.insert(entry.container.id().to_owned(), entry);
    }

    pub(crate) fn remove(&mut self, container: &str) {
        self.0.remove(container);
    }

    /// # Errors
    /// [`Error::State`] when there is none of this id.
    pub(crate) fn entry(&mut self, container: &str) -> Result<&mut Entry, Error> {
        self.0.get_mut(container).ok_or_else(|| missing(container, "does not exist"))
    }

    /// # Errors
    /// [`Error::State`] when there is none of this name, or it has ended.
    pub(crate) fn find(&mut self, target: &Target) -> Result<Found<'_>, Error> {
        let entry = self.entry(&target.container)?;
        match &target.exec {
            None if entry.container.is_stopped() => Err(missing(&target.container, "has stopped")),
            None => {
                Ok(Found { process: entry.container.init(), terminal: entry.terminal.as_ref() })
            }
            Some(name) => entry
                .execs
                .get(name)
                .map(|joined| Found {
                    process: &joined.process,
                    terminal: joined.terminal.as_ref(),
                })
                .ok_or_else(|| missing(&target.container, "has no such process")),
        }
    }

    /// Notes that a process was reaped; `None` when it was nobody's.
    pub(crate) fn exited(&mut self, pid: Pid, status: ExitStatus) -> Option<Exited> {
        self.0.iter_mut().find_map(|(id, entry)| {
            let exec = if entry.container.init().pid() == pid && !entry.container.is_stopped() {
                entry.container.stopped();
                entry.terminal = None;
                None
            } else {
                let ended = entry.execs.iter().find(|(_, joined)| joined.process.pid() == pid);
                let name = ended.map(|(name, _)| name.clone())?;
                entry.execs.remove(&name);
                Some(name)
            };
            let target = Target { container: id.clone(), exec };
            Some(Exited { target, status, oom_killed: entry.container.oom_killed() })
        })
    }

    /// Kills all processes of all containers.
    pub(crate) fn kill(&self) {
        for entry in self.0.values() {
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
        self.0.values()
    }
}

fn missing(container: &str, why: &'static str) -> Error {
    Error::State { container: container.to_owned(), why }
}
