//! The part of an OCI runtime specification (v1.2, `config.json`) that the engine reads, and nothing else: other
//! properties are skipped, as the specification wants it. Own types, because the complete ones and their parser weigh
//! 2 MiB in a program that every guest carries.

mod linux;
mod process;
mod resources;
mod seccomp;

pub use linux::{Device, DeviceType, IdMapping, Linux, Namespace, NamespaceType, TimeOffset};
pub use process::{
    Capabilities, ConsoleSize, IoPriority, IoPriorityClass, Process, Rlimit, Scheduler, User,
};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma,
    Resources, Throttle, WeightDevice,
};
pub use seccomp::{Action, Arg, Flag, Operator, Seccomp, SyscallRule};
use serde::Deserialize;

/// A container (config.md).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The root file system's properties; its path is not used.
    pub root: Option<Root>,
    /// Mounts beyond the root, in order.
    pub mounts: Vec<Mount>,
    /// The container's process.
    pub process: Option<Process>,
    /// The host name in the UTS namespace.
    pub hostname: Option<String>,
    /// The domain name in the UTS namespace.
    pub domainname: Option<String>,
    /// What only Linux has.
    pub linux: Option<Linux>,
}

/// The root file system (config.md, "Root").
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Root {
    /// The root is mounted read-only.
    pub readonly: bool,
}

/// A mount (config.md, "Mounts").
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where, in the container.
    pub destination: String,
    /// The file system's type.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// The device, or the directory or file of a bind mount.
    #[serde(default)]
    pub source: Option<String>,
    /// Options, in mount(8)'s words.
    #[serde(default)]
    pub options: Vec<String>,
}
