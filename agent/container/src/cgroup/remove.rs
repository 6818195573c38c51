//! The end of a group.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD},
    io::Errno,
};

use super::{group::Cgroup, processes::below};
use crate::error::{Error, at};

/// How long processes may take to die.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Kills what is left in the group and removes it, the groups below it, and those above it that were made for it and
    /// are empty. A group that is gone already is removed.
    ///
    /// # Errors
    /// [`Error::System`]: `EBUSY` when processes do not die within 10 seconds.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        for dir in self.directories() {
            loop {
                match tree(&dir.path) {
                    Ok(()) => break,
                    Err(Errno::BUSY) if Instant::now() < deadline => {
                        // Again and again: somebody may still be joining.
                        self.signal_all(libc::SIGKILL)?;
                        thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(50));
                    }
                    Err(errno) => return Err(at("remove cgroup", &dir.path)(errno)),
                }
            }
            let mut above = dir.path.as_str();
            for _ in 0..dir.parents {
                let Some((parent, _)) = above.rsplit_once('/') else { break };
                // Another container may have come to be there.
                if rmdir(parent).is_err() {
                    break;
                }
                above = parent;
            }
        }
        Ok(())
    }
}

/// Removes a group in which nobody is, left behind by somebody who was killed.
pub(super) fn stale(path: &str) -> Result<(), Errno> {
    tree(path)
}

/// Removes a group and those below it; `EBUSY` while processes are in one.
fn tree(path: &str) -> Result<(), Errno> {
    match rmdir(path) {
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        removed => return removed,
    }
    below(path).iter().rev().try_for_each(|path| rmdir(path))
}

fn rmdir(path: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
