//! The processes of a group and of those that they made below it.

use std::{collections::BTreeSet, fs};

use rustix::io::Errno;

use super::{Version, directory::Directory, group::Cgroup};
use crate::{
    error::{Error, at},
    sys,
};

/// More groups below one are not looked into.
const MAX_GROUPS: usize = 4096;
/// In which of the hierarchies of version 1 processes are looked for. A container may make groups of its own in any, but
/// its processes do not leave its part.
const WHERE: [&str; 4] = ["freezer", "pids", "devices", "memory"];
/// How often the killed are counted again without a way to stop them from making more.
const ROUNDS: usize = 100;

impl Cgroup {
    /// The pids of all processes, here and below, where this process is; ascending.
    ///
    /// # Errors
    /// [`Error::System`]; a group that is gone has none.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        let Some(dir) = self.listed() else { return Ok(Vec::new()) };
        let mut pids = BTreeSet::new();
        for path in below(&dir.path) {
            match Directory::new(dir.version, "", path.clone(), 0).read("cgroup.procs") {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => return Err(at("list the processes of cgroup", path)(errno)),
            }
        }
        // Processes that this one cannot see are 0 there.
        pids.remove(&0);
        Ok(pids.into_iter().collect())
    }

    /// The hierarchy in which processes are looked for.
    fn listed(&self) -> Option<&Directory> {
        self.directory_of(Version::V2)
            .or_else(|| WHERE.iter().find_map(|name| self.directory(name)))
            .or_else(|| self.directories().first())
    }

    /// Signals every process. `SIGKILL` also ends what is frozen, and what the processes make meanwhile.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        if signal != libc::SIGKILL {
            return self.signal_each(signal).map(drop);
        }
        let frozen = self.directory("freezer").is_some();
        match self.directory_of(Version::V2).map(|dir| dir.write("cgroup.kill", "1")) {
            Some(Ok(())) => {}
            // It has gone.
            Some(Err(Errno::NOENT | Errno::NODEV)) | None if !frozen => self.kill_each()?,
            Some(Err(Errno::NOENT | Errno::NODEV)) | None => {
                // Frozen, they make no more. If they cannot be frozen, the rounds have to do.
                let _ = self.freeze();
                self.signal_each(signal)?;
            }
            Some(Err(errno)) => {
                return Err(at("kill the processes of container", self.id())(errno));
            }
        }
        // In version 1 the frozen do not die; in version 2 they do.
        if frozen && self.is_frozen() {
            self.thaw()?;
        }
        Ok(())
    }

    fn kill_each(&self) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            if self.signal_each(libc::SIGKILL)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Returns how many there were.
    fn signal_each(&self, signal: i32) -> Result<usize, Error> {
        let pids = self.processes()?;
        for pid in pids.iter().filter(|pid| **pid > 1) {
            match sys::kill(*pid, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(at("signal process", pid)(errno)),
            }
        }
        Ok(pids.len())
    }
}

/// A group's directory and all below it, each before those below it.
pub(super) fn below(path: &str) -> Vec<String> {
    let mut all = vec![path.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next).filter(|_| all.len() < MAX_GROUPS) {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let groups: Vec<_> =
            groups.filter_map(|entry| entry.path().into_os_string().into_string().ok()).collect();
        all.extend(groups);
        next += 1;
    }
    all
}
