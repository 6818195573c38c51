//! `delete`: containerd's call for a container whose shim is gone.

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    time::SystemTime,
};

use bulkhead::lifecycle::{LifecycleError, StateRoot};
use containerd_shim_protos::{
    api::DeleteResponse,
    protobuf::{Message, MessageField},
};

use crate::{
    address,
    args::Args,
    refusal::{Refusal, at, cannot},
    root::{self, Note},
};

/// The code of a process that was killed with its shim.
const KILLED: u32 = 128 + libc::SIGKILL.unsigned_abs();

/// Removes all that is left of the container, and says how it ended.
///
/// # Errors
/// What could not be removed.
pub(crate) fn delete(args: &Args) -> Result<(), Refusal> {
    args.check_names()?;
    let bundle = if args.bundle.as_os_str().is_empty() {
        env::current_dir().map_err(cannot("find the bundle"))?
    } else {
        PathBuf::from(&args.bundle)
    };
    // The bundle may be this process's directory, and goes next.
    env::set_current_dir("/").map_err(cannot("leave the bundle"))?;
    let mut pid = 0;
    if let Some(note) = Note::read(&bundle)? {
        let root = StateRoot::open(note.root);
        pid = remove(&root, &args.id)?;
        root::unmount(&bundle)?;
    }
    address::clear(&bundle)?;
    let response = DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: MessageField::some(SystemTime::now().into()),
        ..DeleteResponse::default()
    };
    let bytes = response.write_to_bytes().map_err(cannot("write the answer"))?;
    io::stdout().write_all(&bytes).map_err(at("write the answer to", &bundle))
}

/// Ends and removes it; the number that its process had.
fn remove(root: &StateRoot, id: &str) -> Result<u32, Refusal> {
    match root.get(id) {
        Ok(container) => {
            let pid = container.state().map_or(0, |state| state.pid);
            container.delete(true)?;
            Ok(u32::try_from(pid).unwrap_or(0))
        }
        Err(LifecycleError::NotFound | LifecycleError::Damaged { .. }) => {
            // What is damaged, or was hardly begun.
            root.discard(id)?;
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}
