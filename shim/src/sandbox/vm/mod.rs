//! Isolation by a microVM: a container whose processes run behind a kernel of their own. Its monitor, a process of the
//! host, stands for it.

pub mod admission;
mod client;
mod container;
mod create;
mod exec;
mod member;
mod mounts;
mod pod;
mod record;
pub mod rewrite;
mod root;
mod shape;
mod template;

use std::{fs, io, path::Path};

pub use container::{Guest, counters};
pub(crate) use create::GUEST_CID;
pub(super) use create::create;
pub use mounts::takes;
pub use record::Record;
pub(crate) use record::{ENDED, Ended, Identity, NetworkRecord, Pod, RECORD, lost};

use super::{
    Create, Exec, MachineOptions, Mount, OomEvents, Root, Sandbox, SandboxError, Spawned, Status,
};

pub(super) fn open<'a>(record: &'a Record, dir: &'a Path) -> Result<Guest<'a>, SandboxError> {
    Ok(Guest::new(record, dir))
}

/// What a monitor has noted of a container whose maker was killed.
pub(super) fn remains(dir: &Path) -> Result<Option<Record>, SandboxError> {
    let path = dir.join(RECORD);
    match fs::read(&path) {
        // Written before anything that would have to be removed, so that what cannot be understood is not the monitor's.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SandboxError::Failed(format!("cannot read {}: {error}", path.display()))),
    }
}
