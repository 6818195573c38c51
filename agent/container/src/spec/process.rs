//! A process (config.md, "Process").

use serde::Deserialize;

use super::{object, or_default};

/// A process to run in a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// It gets a pseudo terminal.
    pub terminal: bool,
    /// The terminal's first size.
    #[serde(deserialize_with = "object")]
    pub console_size: Option<ConsoleSize>,
    /// The working directory, absolute.
    pub cwd: String,
    /// The environment, `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// The program and its arguments.
    #[serde(deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// Resource limits.
    #[serde(deserialize_with = "or_default")]
    pub rlimits: Vec<Rlimit>,
    /// The capability sets.
    #[serde(deserialize_with = "object")]
    pub capabilities: Option<Capabilities>,
    /// It and its children gain no privileges by execve.
    pub no_new_privileges: bool,
    /// `/proc/PID/oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// sched_setattr(2).
    #[serde(deserialize_with = "object")]
    pub scheduler: Option<Scheduler>,
    /// ioprio_set(2).
    #[serde(deserialize_with = "object")]
    pub io_priority: Option<IoPriority>,
    /// Whom it runs as.
    pub user: User,
    /// The AppArmor profile that it gets by execve.
    pub apparmor_profile: Option<String>,
    /// The SELinux label that it gets by execve.
    pub selinux_label: Option<String>,
    /// Where a process that joins a container runs.
    #[serde(rename = "execCPUAffinity", deserialize_with = "object")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// Processors, as a list: `0-3,7`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CpuAffinity {
    /// Before the process is in the container's cgroup.
    pub initial: Option<String>,
    /// Afterwards.
    #[serde(rename = "final")]
    pub last: Option<String>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// A resource limit (getrlimit(2)).
#[derive(Debug, Clone, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The hard limit.
    pub hard: u64,
    /// The soft limit.
    pub soft: u64,
}

/// Capability sets by name, `CAP_…` (capabilities(7)).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What execve can grant at most.
    #[serde(deserialize_with = "or_default")]
    pub bounding: Vec<String>,
    /// What the kernel checks.
    #[serde(deserialize_with = "or_default")]
    pub effective: Vec<String>,
    /// What files may keep over execve.
    #[serde(deserialize_with = "or_default")]
    pub inheritable: Vec<String>,
    /// What may become effective.
    #[serde(deserialize_with = "or_default")]
    pub permitted: Vec<String>,
    /// What is kept over execve without the file's help.
    #[serde(deserialize_with = "or_default")]
    pub ambient: Vec<String>,
}

/// Scheduling (sched_setattr(2)).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_…`.
    pub policy: String,
    /// The nice value of `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// The priority of `SCHED_FIFO` and `SCHED_RR`.
    pub priority: i32,
    /// `SCHED_FLAG_…`.
    #[serde(deserialize_with = "or_default")]
    pub flags: Vec<String>,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// I/O priority (ioprio_set(2)).
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct IoPriority {
    /// The class.
    pub class: IoPriorityClass,
    /// 0 (highest) to 7.
    #[serde(default)]
    pub priority: u8,
}

/// I/O priority classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum IoPriorityClass {
    /// Before all others.
    #[serde(rename = "IOPRIO_CLASS_RT")]
    RealTime,
    /// The usual one.
    #[serde(rename = "IOPRIO_CLASS_BE")]
    BestEffort,
    /// When nobody else wants the disk.
    #[serde(rename = "IOPRIO_CLASS_IDLE")]
    Idle,
}

/// Whom a process runs as.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(deserialize_with = "or_default")]
    pub additional_gids: Vec<u32>,
}
