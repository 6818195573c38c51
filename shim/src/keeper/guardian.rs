//! The guardian: starts the keeper, waits, and ends the container if the keeper does not.

use std::process::{Command, Stdio};

use rustix::{
    io::Errno,
    process::{Pid, WaitOptions, set_child_subreaper, setsid, wait},
};

use super::{KeeperError, launch::own_program};
use crate::{container::Registry, settings::Settings};

/// Guards the keeper of the container `id`, whose socket is this process's standard input, until it ends.
///
/// # Errors
/// [`KeeperError`], which nobody reads; the next command finds the same.
pub fn guard(id: &str) -> Result<(), KeeperError> {
    // It fails only for a process that leads a session already.
    let _ = setsid();
    // Processes of a container whose keeper was killed come here, not to the host's first process.
    set_child_subreaper(Some(Pid::INIT)).map_err(KeeperError::io("be guarded"))?;
    let child = Command::new(own_program())
        .args(["keeper", "--keep", id])
        .stdin(Stdio::inherit())
        .spawn()
        .map_err(KeeperError::io("be started"))?;
    // The command at the other end is to notice when the keeper goes.
    let nothing = std::fs::File::open("/dev/null").map_err(KeeperError::io("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&nothing).map_err(KeeperError::io("close a socket"))?;
    if wait_for(child.id()) {
        return Ok(());
    }
    let registry = Registry::open(&Settings::load()?)?;
    let guard = registry.guard()?;
    registry.settle(&guard, &registry.find(id)?)?;
    Ok(())
}

/// Waits until the child of this pid ends; others that end meanwhile are forgotten. Whether it ended well.
fn wait_for(pid: u32) -> bool {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if u32::try_from(ended.as_raw_nonzero().get()) == Ok(pid) => {
                return status.exit_status() == Some(0);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
