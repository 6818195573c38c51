//! What only Linux has (config-linux.md).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Resources, Seccomp, object, or_default};

/// Linux properties of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Namespaces to make or join.
    #[serde(deserialize_with = "or_default")]
    pub namespaces: Vec<Namespace>,
    /// User ids of a new user namespace.
    #[serde(deserialize_with = "or_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of a new user namespace.
    #[serde(deserialize_with = "or_default")]
    pub gid_mappings: Vec<IdMapping>,
    /// Clocks of a new time namespace, `monotonic` and `boottime`.
    #[serde(deserialize_with = "or_default")]
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Device nodes beyond the default ones.
    #[serde(deserialize_with = "or_default")]
    pub devices: Vec<Device>,
    /// Where the control group is; see [`crate::Cgroups::create`].
    pub cgroups_path: Option<String>,
    /// Limits.
    #[serde(deserialize_with = "object")]
    pub resources: Option<Resources>,
    /// Kernel parameters of the container's namespaces.
    #[serde(deserialize_with = "or_default")]
    pub sysctl: BTreeMap<String, String>,
    /// The filter of system calls.
    #[serde(deserialize_with = "object")]
    pub seccomp: Option<Seccomp>,
    /// Propagation of the root mount: `shared`, `slave`, `private` or `unbindable`, with or without `r`.
    pub rootfs_propagation: Option<String>,
    /// Paths that cannot be read.
    #[serde(deserialize_with = "or_default")]
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    #[serde(deserialize_with = "or_default")]
    pub readonly_paths: Vec<String>,
    /// The execution domain.
    #[serde(deserialize_with = "object")]
    pub personality: Option<Personality>,
    /// Cache and memory bandwidth (resctrl).
    #[serde(deserialize_with = "object")]
    pub intel_rdt: Option<IntelRdt>,
    /// SELinux's label of the container's mounts.
    pub mount_label: Option<String>,
}

/// An execution domain (personality(2)).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// None exists in the specification.
    #[serde(deserialize_with = "or_default")]
    pub flags: Vec<String>,
}

/// Shares of the processor's cache and memory bandwidth (Documentation/arch/x86/resctrl.rst).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IntelRdt {
    /// The group's name.
    #[serde(rename = "closID")]
    pub clos_id: Option<String>,
    /// The schema of level 3 caches.
    pub l3_cache_schema: Option<String>,
    /// The schema of memory bandwidth.
    pub mem_bw_schema: Option<String>,
}

/// A namespace.
#[derive(Debug, Clone, Deserialize)]
pub struct Namespace {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: NamespaceType,
    /// An existing one to join; absent: a new one.
    #[serde(default)]
    pub path: Option<String>,
}

/// Types of namespaces (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceType {
    /// Process ids.
    Pid,
    /// Network.
    Network,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// User and group ids.
    User,
    /// The root of the cgroup tree.
    Cgroup,
    /// Clocks.
    Time,
}

/// A range of ids (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// The first id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// The first id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// A clock's offset (time_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds.
    pub nanosecs: u32,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Where, in the container.
    pub path: String,
    /// What.
    #[serde(rename = "type")]
    pub kind: DeviceType,
    /// The major number; not of a FIFO.
    #[serde(default)]
    pub major: u32,
    /// The minor number; not of a FIFO.
    #[serde(default)]
    pub minor: u32,
    /// Permission bits; 0666 when absent.
    #[serde(default)]
    pub file_mode: Option<u32>,
    /// The owner.
    #[serde(default)]
    pub uid: u32,
    /// The group.
    #[serde(default)]
    pub gid: u32,
}

/// Kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum DeviceType {
    /// All kinds; in device rules only.
    #[serde(rename = "a")]
    All,
    /// A block device.
    #[serde(rename = "b")]
    Block,
    /// A character device.
    #[serde(rename = "c", alias = "u")]
    Character,
    /// A FIFO.
    #[serde(rename = "p")]
    Fifo,
}
