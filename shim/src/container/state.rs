//! What is remembered of a container: what it is made of, which is written once, and what became of it, which its keeper writes.

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    cni::Wish,
    settings::{Isolation, LogLimits},
    template::Mode,
};

/// What a container is made of, beside its OCI configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The image's id.
    pub image: String,
    /// What the user called the image.
    pub image_name: String,
    /// What separates it from this host.
    pub isolation: Isolation,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The program has a terminal.
    pub terminal: bool,
    /// Its standard input is open.
    pub interactive: bool,
    /// Its standard input ends with that of the first who is attached to it.
    pub stdin_once: bool,
    /// Asks the program to end.
    pub stop_signal: i32,
    /// It is removed when it ends.
    pub auto_remove: bool,
    /// The command that makes and starts it at once. Without it, and unless its program ran, the container goes; absent: it is kept in any case.
    pub maker: Option<Process>,
    /// Its root cannot be written.
    pub read_only: bool,
    /// How much of its output is kept.
    pub log: LogLimits,
    /// Its microVM.
    pub machine: Machine,
    /// Its network; absent: a loopback device only.
    #[serde(default)]
    pub network: Option<Wish>,
}

/// What a microVM is made of. Nothing of it matters for the isolation `host`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processors.
    pub vcpus: u8,
    /// Another kernel than the settings'.
    pub kernel: Option<PathBuf>,
    /// Where the guest's console goes.
    pub console_log: Option<PathBuf>,
    /// Whether it is a clone of a template; absent: as the settings say.
    #[serde(default)]
    pub template: Option<Mode>,
    /// Whose templates it may be a clone of; absent: the user's.
    #[serde(default)]
    pub tenant: Option<String>,
}

/// What a container does, as docker names it. Whether it is paused is its sandbox's to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It was never started.
    #[default]
    Created,
    /// Its keeper makes it.
    Starting,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Exited,
}

/// What became of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// What it does.
    pub status: Status,
    /// Its keeper, while it has one.
    pub keeper: Option<Process>,
    /// The directory of the state of running containers that its last keeper was started with (`BULKHEAD_RUN`).
    pub run: Option<PathBuf>,
    /// The process on this host that stands for its program, while that runs.
    pub pid: Option<i32>,
    /// The program's exit code; 128 and the signal's number when a signal ended it.
    pub exit_code: Option<u8>,
    /// It ran out of memory.
    pub oom_killed: bool,
    /// Why it did not start, or ended without its program's doing.
    pub error: Option<String>,
    /// When it was started last.
    pub started: Option<Timestamp>,
    /// When it ended last.
    pub finished: Option<Timestamp>,
    /// What its keeper has to say while it runs.
    pub warnings: Vec<String>,
}

impl State {
    /// Whether it has, or should have, a keeper.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.status, Status::Starting | Status::Running)
    }

    /// Whether its keeper lives.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.is_active() && self.keeper.as_ref().is_some_and(Process::is_alive)
    }
}

/// A process of this host, told from another one that has got its number later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the host did (proc(5), stat, field 22).
    pub start_time: u64,
    /// Which start of the host that was.
    pub boot_id: String,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id();
        Self { pid, start_time: start_time(pid).unwrap_or(0), boot_id: boot_id() }
    }

    /// Whether it lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.boot_id == boot_id() && start_time(self.pid) == Some(self.start_time)
    }
}

fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim_end().to_owned()
}

/// When a process that has not ended started.
fn start_time(pid: u32) -> Option<u64> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let born = bulkhead_container::born(pid).ok()??;
    (!born.has_ended).then_some(born.start_time)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_known_from_its_successor() {
        assert!(Process::own().is_alive());
        let other = Process { start_time: 1, ..Process::own() };
        assert!(!other.is_alive());
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let process = Process { pid, start_time: start_time(pid).unwrap(), ..Process::own() };
        assert!(process.is_alive());
        child.kill().unwrap();
        // A process that nobody has waited for yet has ended all the same.
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_state_survives_its_file() {
        let state =
            State { keeper: Some(Process::own()), status: Status::Running, ..State::default() };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        assert!(state.is_active() && state.is_kept());
        let dead = State { keeper: None, ..state };
        assert!(dead.is_active() && !dead.is_kept());
        assert!(serde_json::from_str::<State>("{\"statuz\":1}").is_err());
    }
}
