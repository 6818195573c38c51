//! Isolation by a microVM: a container whose processes run behind a kernel of their own.

mod machine;
pub mod rewrite;

use std::path::Path;

use bulkhead_protocol::{ProcessInfo, Stats};
pub use machine::{Machine, StartError, Vm};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Create, Exec, OomEvents, Sandbox, SandboxError, Spawned, Status};

/// What another process needs to reach the container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pid: i32,
}

/// A container in a microVM.
#[derive(Debug)]
pub struct Guest<'a> {
    record: &'a Record,
}

pub(super) fn create(_: &Create<'_>) -> Result<(Record, Spawned), SandboxError> {
    Err(absent())
}

pub(super) fn open<'a>(record: &'a Record, _: &'a Path) -> Result<Guest<'a>, SandboxError> {
    Ok(Guest { record })
}

/// What a maker that was killed has noted of its container.
pub(super) fn remains(_: &Path) -> Result<Option<Record>, SandboxError> {
    Ok(None)
}

fn absent() -> SandboxError {
    SandboxError::Unsupported("bundles in microVMs are not there yet; use --isolation host".into())
}

impl Sandbox for Guest<'_> {
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
    fn update(&self, _: &Value) -> Result<Vec<String>, SandboxError> {
        Err(absent())
    }
    fn stats(&self) -> Result<Stats, SandboxError> {
        Err(absent())
    }
    fn processes(&self) -> Result<Vec<ProcessInfo>, SandboxError> {
        Err(absent())
    }
    fn oom_events(&self) -> Result<OomEvents, SandboxError> {
        Err(absent())
    }
    fn oom_killed(&self) -> Result<bool, SandboxError> {
        Err(absent())
    }
    fn remove(&self) -> Result<(), SandboxError> {
        Err(absent())
    }
}
