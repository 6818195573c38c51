//! What is kept of a container in a microVM, for processes that come later.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use bulkhead_container::Born;
use bulkhead_protocol::ExitStatus;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    monitor::{LOG, SAYS},
    tail::last_line,
};

/// The file in which the monitor notes it as soon as there is something to remove.
pub(crate) const RECORD: &str = "vm.json";

/// What another process needs to reach the container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub(crate) monitor: Identity,
    pub(crate) vmm: Option<Identity>,
    /// The engine's record of the control group.
    pub(crate) cgroup: Option<Value>,
    /// Where it has taps, if that outlives its processes.
    #[serde(default)]
    pub(crate) network: Option<NetworkRecord>,
    /// What the monitor's plan says of it; absent: nothing.
    #[serde(default)]
    pub(crate) upper: Option<PathBuf>,
    /// The pod that it has joined. Its own monitor only stands for it then.
    #[serde(default)]
    pub(crate) pod: Option<Pod>,
}

/// A network namespace in which there are taps of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// Its file.
    pub(crate) namespace: PathBuf,
    /// The container's id.
    pub(crate) container: String,
}

/// A pod, as a container that has joined it knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pod {
    /// The state directory of its sandbox.
    pub(crate) directory: PathBuf,
    /// Its sandbox's monitor.
    pub(crate) monitor: Identity,
    /// What its monitor calls the container.
    pub(crate) container: String,
}

/// The file in which the monitor notes how the program ended.
pub(crate) const ENDED: &str = "ended.json";

/// How a program ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The container's memory limit had killed one of its processes.
    pub(crate) oom_killed: bool,
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the boot (proc_pid_stat(5), field 22).
    started: u64,
}

impl Identity {
    /// This process.
    pub(crate) fn own() -> Self {
        let pid = rustix::process::getpid();
        Self::of(pid.as_raw_pid()).unwrap_or(Self { pid: pid.as_raw_pid(), started: 0 })
    }

    /// A process that exists, be it that it has ended and was not waited for.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: born(pid)?.start_time })
    }

    /// It runs.
    pub(crate) fn is_alive(self) -> bool {
        born(self.pid).is_some_and(|born| born.start_time == self.started && !born.has_ended)
    }

    pub(crate) fn pid(self) -> Option<Pid> {
        Pid::from_raw(self.pid)
    }

    /// Kills it and waits until it is dead; false when it lives on.
    pub(crate) fn end(self) -> bool {
        use std::time::{Duration, Instant};
        /// How long a process may take to die.
        const PATIENCE: Duration = Duration::from_secs(10);

        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        // The descriptor is of the right process if that is alive after it was opened.
        let handle = self.pid().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        while self.is_alive() {
            if let Some(handle) = &handle {
                // It may die by itself in the meantime.
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        true
    }
}

/// `PID-START`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.started)
    }
}

impl FromStr for Identity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, started) = text.split_once('-').ok_or(())?;
        let number = |_| ();
        Ok(Self { pid: pid.parse().map_err(number)?, started: started.parse().map_err(number)? })
    }
}

/// When the process of this number began, if there is one.
fn born(pid: i32) -> Option<Born> {
    bulkhead_container::born(Pid::from_raw(pid)?).ok()?
}

/// Why the machine of the container with this state directory ended without its program's doing, if it did; to be asked
/// when its monitor is gone. Only a monitor knows how the program ended.
pub(crate) fn lost(directory: &Path) -> Option<String> {
    if directory.join(ENDED).exists() {
        return None;
    }
    let last = last_line(&directory.join(LOG), |line| line.starts_with(SAYS));
    let why = last.as_deref().and_then(|line| line.strip_prefix(SAYS));
    Some(why.unwrap_or("the microVM's monitor was killed").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_says_why_a_machine_was_lost() {
        let dir = tempfile::tempdir().unwrap();
        let killed = Some("the microVM's monitor was killed".to_owned());
        assert_eq!(lost(dir.path()), killed);
        std::fs::write(dir.path().join(LOG), "something\n").unwrap();
        assert_eq!(lost(dir.path()), killed);
        let long =
            format!("{}\nbulkhead: a note\nbulkhead: the end\nsomething", "x".repeat(1 << 20));
        std::fs::write(dir.path().join(LOG), long).unwrap();
        assert_eq!(lost(dir.path()), Some("the end".to_owned()));
        std::fs::write(dir.path().join(ENDED), "{}").unwrap();
        assert_eq!(lost(dir.path()), None);
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Identity::own();
        assert!(own.is_alive() && own.started > 0);
        assert!(!Identity { started: own.started + 1, ..own }.is_alive());
        assert!(!Identity { pid: i32::MAX, started: 1 }.is_alive());
        assert_eq!(own.to_string().parse(), Ok(own));
        for bad in ["", "1", "1-", "x-1", "1-2-3"] {
            assert_eq!(bad.parse::<Identity>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_process_is_ended_and_a_later_one_is_not() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let known = Identity::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(Identity { started: known.started + 1, ..known }.end());
        assert!(known.is_alive());
        assert!(known.end());
        // It has not been waited for, and is dead all the same.
        assert!(!known.is_alive());
        child.wait().unwrap();
        assert!(known.end());
    }
}
