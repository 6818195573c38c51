//! A container: its processes, and the library's calls for it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use bulkhead::lifecycle::{self, StateRoot};

use super::Process;
use crate::refusal::{Refusal, cannot};

/// Processes that may join a container at once.
const MOST_EXECS: usize = 4096;

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// Where its state is.
    pub(crate) root: PathBuf,
    /// Its first process.
    pub(crate) init: Arc<Process>,
    execs: Mutex<BTreeMap<String, Joined>>,
    /// Held by who removes something of it.
    pub(crate) removal: tokio::sync::Mutex<()>,
    /// It is frozen.
    pub(crate) paused: AtomicBool,
    /// It was told that its memory limit killed something.
    pub(crate) oom_told: AtomicBool,
}

/// A process that joins it, and what it is to run.
#[derive(Debug)]
struct Joined {
    process: Arc<Process>,
    spec: serde_json::Value,
}

impl Container {
    /// One with a first process.
    pub(crate) fn new(id: &str, bundle: PathBuf, root: PathBuf, init: Arc<Process>) -> Self {
        Self {
            id: id.to_owned(),
            bundle,
            root,
            init,
            execs: Mutex::default(),
            removal: tokio::sync::Mutex::default(),
            paused: AtomicBool::new(false),
            oom_told: AtomicBool::new(false),
        }
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<String, Joined>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process by its name; the first one has none.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn process(&self, exec: &str) -> Result<Arc<Process>, Refusal> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let found = self.execs().get(exec).map(|joined| Arc::clone(&joined.process));
        found
            .ok_or_else(|| Refusal::not_found(format!("process {exec} of {} is not here", self.id)))
    }

    /// All processes but the first.
    pub(crate) fn joined(&self) -> Vec<Arc<Process>> {
        self.execs().values().map(|joined| Arc::clone(&joined.process)).collect()
    }

    /// What a process is to run.
    pub(crate) fn spec(&self, exec: &str) -> Option<serde_json::Value> {
        self.execs().get(exec).map(|joined| joined.spec.clone())
    }

    /// A process is to join it.
    ///
    /// # Errors
    /// The name is in use.
    pub(crate) fn add(
        &self,
        process: Arc<Process>,
        spec: serde_json::Value,
    ) -> Result<(), Refusal> {
        let mut execs = self.execs();
        let name = process.exec.clone();
        if execs.contains_key(&name) {
            return Err(Refusal::exists(format!("id {name}: already exists")));
        }
        if execs.len() >= MOST_EXECS {
            return Err(Refusal::failed(format!("{} has {MOST_EXECS} processes", self.id)));
        }
        execs.insert(name, Joined { process, spec });
        Ok(())
    }

    /// Forgets a process.
    pub(crate) fn remove(&self, exec: &str) {
        self.execs().remove(exec);
    }

    /// Does something with the library's container in a thread of its own: it may wait for a guest.
    ///
    /// # Errors
    /// The library's.
    pub(crate) async fn with<T: Send + 'static, E>(
        &self,
        body: impl FnOnce(lifecycle::Container) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Refusal>
    where
        Refusal: From<E>,
    {
        let (root, id) = (self.root.clone(), self.id.clone());
        let done = tokio::task::spawn_blocking(move || {
            let container = StateRoot::open(root).get(&id)?;
            body(container).map_err(Refusal::from)
        });
        done.await.map_err(cannot("use a thread"))?
    }
}
