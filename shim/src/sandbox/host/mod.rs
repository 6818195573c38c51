//! Isolation by this host's kernel: the engine runs in the caller's process, and nothing of Bulkhead's stays behind.

use std::path::Path;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Create, Created, Exec, Sandbox, SandboxError, Spawned, Status};

/// What another process needs to reach the container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pid: i32,
}

/// A container that dies with its maker until it is let go.
pub struct Commit {}

impl Commit {
    /// Lets it go.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub(super) fn done(self) -> Result<(), SandboxError> {
        Ok(())
    }
}

/// A container on the host's kernel.
#[derive(Debug)]
pub struct Host<'a> {
    record: &'a Record,
}

pub(super) fn create(_: &Create<'_>) -> Result<Created, SandboxError> {
    Err(absent())
}

pub(super) fn open<'a>(record: &'a Record, _: &'a Path) -> Result<Host<'a>, SandboxError> {
    Ok(Host { record })
}

fn absent() -> SandboxError {
    SandboxError::Unsupported("host isolation is not there yet; use --isolation vm".into())
}

impl Sandbox for Host<'_> {
    fn status(&self) -> Result<Status, SandboxError> {
        Err(absent())
    }
    fn pid(&self) -> Pid {
        Pid::from_raw(self.record.pid).unwrap_or(Pid::INIT)
    }
    fn start(&self) -> Result<(), SandboxError> {
        Err(absent())
    }
    fn kill(&self, _: i32, _: bool) -> Result<(), SandboxError> {
        Err(absent())
    }
    fn exec(&self, _: &Exec<'_>) -> Result<Spawned, SandboxError> {
        Err(absent())
    }
    fn pause(&self) -> Result<(), SandboxError> {
        Err(absent())
    }
    fn resume(&self) -> Result<(), SandboxError> {
        Err(absent())
    }
    fn update(&self, _: &Value) -> Result<(), SandboxError> {
        Err(absent())
    }
    fn remove(&self) -> Result<(), SandboxError> {
        Err(absent())
    }
}
