//! Containers and their processes, and what is done to them. Each call is one task of the runtime's only thread; what waits for a
//! container is done by helpers, or by threads.
//!
//! ```text
//! process:  created --start--> running --its end--> stopped --delete--> (gone)
//! ```
//!
//! A process's gate is held by who changes it, from the request to its event, so that events come in the order of what happened: its end
//! is told after its start, whichever was known first.

mod container;
mod create;
mod delete;
mod exec;
mod kill;
mod process;
mod start;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub(crate) use container::Container;
pub(crate) use process::{Phase, Process};
use tokio::sync::Notify;

use crate::{events::Events, exits::Exits, helper::Helpers, refusal::Refusal};

/// The shim: its containers, and what they share.
#[derive(Debug)]
pub(crate) struct Shim {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The name by which this program was called.
    pub(crate) program: PathBuf,
    pub(crate) events: Arc<Events>,
    pub(crate) exits: Arc<Exits>,
    pub(crate) helpers: Helpers,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// Notified when nothing is left to do.
    pub(crate) over: Notify,
}

impl Shim {
    /// One without containers.
    ///
    /// # Errors
    /// What it needs cannot be had.
    pub(crate) fn new(namespace: &str, program: PathBuf) -> Result<Self, Refusal> {
        let exits = Arc::new(Exits::default());
        Ok(Self {
            namespace: namespace.to_owned(),
            events: Arc::new(Events::new(namespace)),
            helpers: Helpers::new(program.clone().into(), Arc::clone(&exits))?,
            exits,
            program,
            containers: Mutex::default(),
            over: Notify::new(),
        })
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container.
    ///
    /// # Errors
    /// There is none of this name.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Refusal> {
        let found = self.containers().get(id).map(Arc::clone);
        found.ok_or_else(|| Refusal::not_found(format!("container {id} is not here")))
    }

    /// A container's process: its first one when `exec` is empty.
    ///
    /// # Errors
    /// There is none of this name.
    pub(crate) fn process(&self, id: &str, exec: &str) -> Result<Arc<Process>, Refusal> {
        self.container(id)?.process(exec)
    }

    /// No container is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.containers().is_empty()
    }
}
