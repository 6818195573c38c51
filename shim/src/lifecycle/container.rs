//! A container that was made, and what can be done with it. Each verb checks the state that it needs under the lock.

use std::path::Path;

use bulkhead_container::hooks;
use bulkhead_protocol::{ProcessInfo, Stats};
use serde_json::Value;

use super::{
    directory::{CONFIG, Directory, Guard, Lock, STATE},
    error::LifecycleError,
    state::{OciState, State},
};
use crate::sandbox::{
    self, Config, Exec, Isolation, OomEvents, Record, Sandbox, SandboxError, Spawned, Status,
};

/// The largest state file: annotations are the most of it.
const MAX_STATE: u64 = 32 << 20;
/// The largest configuration's copy.
const MAX_CONFIG: u64 = 32 << 20;

/// A container. Its state may be changed by other processes at any time.
#[derive(Debug)]
pub struct Container {
    directory: Directory,
    state: State,
    warnings: Vec<String>,
}

impl Container {
    pub(super) fn new(directory: Directory, state: State) -> Self {
        Self { directory, state, warnings: Vec::new() }
    }

    pub(super) fn load(directory: Directory) -> Result<Self, LifecycleError> {
        if let Some(state) = read(&directory)?
            && (state.sandbox.is_some() || directory.is_locked())
        {
            return Ok(Self::new(directory, state));
        }
        // Being made just now, or its maker was killed: what is there when nobody works on it any more says which.
        let guard = match directory.is_locked() {
            true => Some(directory.lock(Lock::Shared)?),
            false => None,
        };
        drop(guard);
        let state = read(&directory)?.ok_or(LifecycleError::NotFound)?;
        Ok(Self::new(directory, state))
    }

    /// Takes the lock, and learns what happened until it was had.
    fn lock(&mut self, lock: Lock) -> Result<Guard, LifecycleError> {
        let guard = self.directory.lock(lock)?;
        if self.state.sandbox.is_none() {
            self.state = read(&self.directory)?.ok_or(LifecycleError::NotFound)?;
        }
        Ok(guard)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        self.directory.id()
    }

    /// What isolates it.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.state.isolation
    }

    /// Its bundle's absolute path.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        &self.state.bundle
    }

    /// Its start runs hooks, in the caller's process.
    #[must_use]
    pub fn has_poststart(&self) -> bool {
        self.state.poststart
    }

    /// Its removal runs hooks, in the caller's process.
    #[must_use]
    pub fn has_poststop(&self) -> bool {
        self.state.poststop
    }

    /// What of its configuration was left out when it was made; empty for one that another process made.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn set_warnings(&mut self, warnings: Vec<String>) {
        self.warnings = warnings;
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn state_file(&self) -> &State {
        &self.state
    }

    pub(super) fn set_sandbox(&mut self, record: Record) {
        self.state.sandbox = Some(record);
    }

    /// Its configuration when it was made.
    ///
    /// # Errors
    /// [`LifecycleError`].
    pub fn config(&self) -> Result<Config, LifecycleError> {
        let text = self.directory.read(CONFIG, MAX_CONFIG)?.unwrap_or_default();
        Ok(Config::parse(text, CONFIG)?)
    }

    fn sandbox(&self) -> Result<Option<Box<dyn Sandbox + '_>>, LifecycleError> {
        let open = |record| sandbox::open(record, self.directory.path());
        Ok(self.state.sandbox.as_ref().map(open).transpose()?)
    }

    /// The sandbox and what the container does; absent when it was never made.
    fn now(&self) -> Result<(Option<Box<dyn Sandbox + '_>>, Status), LifecycleError> {
        let sandbox = self.sandbox()?;
        let status = match &sandbox {
            Some(sandbox) => sandbox.status()?,
            None if self.directory.is_locked() => Status::Creating,
            None => Status::Stopped,
        };
        Ok((sandbox, status))
    }

    /// What it does.
    ///
    /// # Errors
    /// [`LifecycleError`].
    pub fn status(&self) -> Result<Status, LifecycleError> {
        Ok(self.now()?.1)
    }

    /// Its state, as tools get it.
    ///
    /// # Errors
    /// [`LifecycleError`].
    pub fn state(&self) -> Result<OciState, LifecycleError> {
        let (sandbox, status) = self.now()?;
        let pid = sandbox.map_or(0, |sandbox| sandbox.pid().as_raw_nonzero().get());
        Ok(self.state.told(status, pid, self.directory.owner()))
    }

    /// Lets its process execute its program. Returns what `poststart` hooks failed at.
    ///
    /// # Errors
    /// [`LifecycleError::NotCreated`]; what execve or a `startContainer` hook says otherwise, and it has stopped then.
    pub fn start(&mut self) -> Result<Vec<String>, LifecycleError> {
        let guard = self.lock(Lock::Exclusive)?;
        let pid = match self.now()? {
            (Some(sandbox), Status::Created) => {
                sandbox.start()?;
                sandbox.pid()
            }
            (_, status) => return Err(LifecycleError::NotCreated(status)),
        };
        // A hook may want to do something to the container.
        drop(guard);
        if !self.state.poststart {
            return Ok(Vec::new());
        }
        let config = self.config()?;
        let hooks = config.spec().hooks.as_ref().map_or(&[][..], |hooks| &hooks.poststart);
        let pid = Some(pid.as_raw_nonzero().get());
        Ok(self.run_hooks(&config, hooks, "poststart", "running", pid))
    }

    fn run_hooks(
        &self,
        config: &Config,
        hooks: &[bulkhead_container::spec::Hook],
        which: &'static str,
        status: &str,
        pid: Option<i32>,
    ) -> Vec<String> {
        let bundle = self.state.bundle.to_string_lossy();
        let state = hooks::State::new(self.id(), &bundle, config.spec()).json(status, pid);
        let failed = hooks::run_all(hooks, &state, which);
        failed.iter().map(ToString::to_string).collect()
    }

    /// Sends a signal to its first process, or to all; 0 only finds out whether it has not stopped.
    ///
    /// # Errors
    /// [`LifecycleError::NotRunning`] when it has stopped.
    pub fn kill(&mut self, signal: i32, all: bool) -> Result<(), LifecycleError> {
        if self.state.sandbox.is_none() {
            // Nobody but its maker can reach it before it is made.
            drop(self.lock(Lock::Shared)?);
        }
        match self.now()? {
            (None, _) => Err(LifecycleError::NotRunning),
            (Some(_), Status::Stopped) if !all => Err(LifecycleError::NotRunning),
            // It only asks whether there is somebody to signal.
            (Some(_), _) if signal == 0 => Ok(()),
            (Some(sandbox), _) => Ok(sandbox.kill(signal, all)?),
        }
    }

    /// Runs one more process in it. `ignore_paused`: in a paused one, it runs when that is resumed.
    ///
    /// # Errors
    /// [`LifecycleError::ExecStopped`], [`LifecycleError::ExecPaused`]; what execve says.
    pub fn exec(
        &mut self,
        exec: &Exec<'_>,
        ignore_paused: bool,
    ) -> Result<Spawned, LifecycleError> {
        let guard = self.lock(Lock::Shared)?;
        match self.now()? {
            (None, _) | (_, Status::Stopped) => Err(LifecycleError::ExecStopped),
            (_, Status::Paused) if !ignore_paused => Err(LifecycleError::ExecPaused),
            (Some(sandbox), status) => {
                if status == Status::Paused {
                    // Who resumes it needs the lock.
                    drop(guard);
                }
                Ok(sandbox.exec(exec)?)
            }
        }
    }

    /// Freezes its processes.
    ///
    /// # Errors
    /// [`LifecycleError::NotRunning`].
    pub fn pause(&mut self) -> Result<(), LifecycleError> {
        let _guard = self.lock(Lock::Exclusive)?;
        match self.now()? {
            (Some(sandbox), Status::Running | Status::Created) => Ok(sandbox.pause()?),
            _ => Err(LifecycleError::NotRunning),
        }
    }

    /// Thaws its processes.
    ///
    /// # Errors
    /// [`LifecycleError::NotPaused`].
    pub fn resume(&mut self) -> Result<(), LifecycleError> {
        let _guard = self.lock(Lock::Exclusive)?;
        match self.now()? {
            (Some(sandbox), Status::Paused) => Ok(sandbox.resume()?),
            _ => Err(LifecycleError::NotPaused),
        }
    }

    /// Changes its limits: `linux.resources` with what is to change. Returns what was left out.
    ///
    /// # Errors
    /// [`LifecycleError::NotRunning`].
    pub fn update(&mut self, resources: &Value) -> Result<Vec<String>, LifecycleError> {
        let _guard = self.lock(Lock::Exclusive)?;
        match self.now()? {
            (None, _) | (_, Status::Stopped) => Err(LifecycleError::NotRunning),
            (Some(sandbox), _) => Ok(sandbox.update(resources)?),
        }
    }

    /// What it uses.
    ///
    /// # Errors
    /// [`LifecycleError::NotRunningNamed`].
    pub fn stats(&self) -> Result<Stats, LifecycleError> {
        match self.now()? {
            (None, _) | (_, Status::Stopped) => {
                Err(LifecycleError::NotRunningNamed(self.id().to_owned()))
            }
            (Some(sandbox), _) => Ok(sandbox.stats()?),
        }
    }

    /// Its processes; none when it has stopped.
    ///
    /// # Errors
    /// [`LifecycleError`].
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, LifecycleError> {
        match self.now()? {
            (Some(sandbox), status) if status != Status::Stopped => Ok(sandbox.processes()?),
            _ => Ok(Vec::new()),
        }
    }

    /// Waits for processes that are killed for want of memory.
    ///
    /// # Errors
    /// [`LifecycleError::NotRunningNamed`].
    pub fn oom_events(&self) -> Result<OomEvents, LifecycleError> {
        match self.now()? {
            (None, _) | (_, Status::Stopped) => {
                Err(LifecycleError::NotRunningNamed(self.id().to_owned()))
            }
            (Some(sandbox), _) => Ok(sandbox.oom_events()?),
        }
    }

    /// A process of it was killed for want of memory. To be asked before it is deleted.
    ///
    /// # Errors
    /// [`LifecycleError`].
    pub fn oom_killed(&self) -> Result<bool, LifecycleError> {
        Ok(self.sandbox()?.map_or(Ok(false), |sandbox| sandbox.oom_killed())?)
    }

    /// Ends what only waits for somebody to take the output of its program, which has ended; its exit code. None: nothing waits.
    ///
    /// # Errors
    /// [`LifecycleError`].
    pub fn abandon_output(&self) -> Result<Option<u8>, LifecycleError> {
        Ok(self.sandbox()?.map_or(Ok(None), |sandbox| sandbox.abandon_output())?)
    }

    /// Removes it: one that was created or has stopped; with `force`, any. Returns what `poststop` hooks failed at.
    ///
    /// # Errors
    /// [`LifecycleError::NotStopped`].
    pub fn delete(mut self, force: bool) -> Result<Vec<String>, LifecycleError> {
        let _guard = self.lock(Lock::Exclusive)?;
        let (sandbox, status) = self.now_locked()?;
        if !force && !matches!(status, Status::Created | Status::Stopped) {
            return Err(LifecycleError::NotStopped { id: self.id().to_owned(), status });
        }
        match sandbox {
            Some(sandbox) => sandbox.remove()?,
            None => self.remove_remains()?,
        }
        // After this, there is no container that the hooks could be read from.
        let config = if self.state.poststop { self.config().ok() } else { None };
        self.directory.remove()?;
        Ok(config.map_or(Vec::new(), |config| {
            let hooks = config.spec().hooks.as_ref().map_or(&[][..], |hooks| &hooks.poststop);
            self.run_hooks(&config, hooks, "poststop", "stopped", None)
        }))
    }

    /// As [`Container::now`], for whoever has the lock: nobody else is making it.
    fn now_locked(&self) -> Result<(Option<Box<dyn Sandbox + '_>>, Status), LifecycleError> {
        match self.sandbox()? {
            Some(sandbox) => {
                let status = sandbox.status()?;
                Ok((Some(sandbox), status))
            }
            None => Ok((None, Status::Stopped)),
        }
    }

    fn remove_remains(&self) -> Result<(), LifecycleError> {
        let State { isolation, cgroups_path, .. } = &self.state;
        let path = cgroups_path.as_deref();
        Ok(sandbox::remove_remains(*isolation, self.id(), self.directory.path(), path)?)
    }

    /// Takes back what its maker could not finish.
    pub(super) fn undo(&self) -> Result<(), LifecycleError> {
        if let Some(sandbox) = self.sandbox()? {
            sandbox.remove()?;
        }
        self.directory.remove()
    }
}

fn read(directory: &Directory) -> Result<Option<State>, LifecycleError> {
    let Some(text) = directory.read(STATE, MAX_STATE)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| LifecycleError::Damaged {
        id: directory.id().to_owned(),
        path: directory.path().join(STATE),
        message: error.to_string(),
    })
}

impl From<bulkhead_container::Error> for LifecycleError {
    fn from(error: bulkhead_container::Error) -> Self {
        Self::Sandbox(SandboxError::from(error))
    }
}
