//! Limits (config-linux.md, "Control groups").

use std::collections::BTreeMap;

use serde::Deserialize;

use super::DeviceType;

/// Limits of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Which device nodes may be used; later rules win.
    pub devices: Vec<DeviceRule>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processors.
    pub cpu: Option<Cpu>,
    /// Processes.
    pub pids: Option<Pids>,
    /// Disks.
    #[serde(rename = "blockIO")]
    pub block_io: Option<BlockIo>,
    /// Huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Network packets' class and priorities; of cgroup v1 only.
    pub network: Option<Network>,
    /// RDMA devices, by their names.
    pub rdma: BTreeMap<String, Rdma>,
    /// Files of cgroup v2 and what to write into them.
    pub unified: BTreeMap<String, String>,
}

/// Memory limits, in bytes; -1 is no limit.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// The hard limit.
    pub limit: Option<i64>,
    /// The soft limit.
    pub reservation: Option<i64>,
    /// Memory and swap together.
    pub swap: Option<i64>,
    /// The kernel's memory, which newer kernels do not limit.
    pub kernel: Option<i64>,
    /// The kernel's memory for TCP buffers.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Option<i64>,
    /// How readily memory goes to swap, 0 to 100.
    pub swappiness: Option<u64>,
    /// Processes wait for memory instead of being killed for want of it.
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
    /// Child groups count as the group's own.
    pub use_hierarchy: Option<bool>,
    /// A limit under what is in use is refused.
    pub check_before_update: Option<bool>,
}

/// Processor limits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    /// The weight in cgroup v1's scale, 2 to 262144.
    pub shares: Option<u64>,
    /// Microseconds in each period; 0 or less is no limit.
    pub quota: Option<i64>,
    /// Microseconds that unused time may add to the quota.
    pub burst: Option<u64>,
    /// The period, in microseconds.
    pub period: Option<u64>,
    /// Microseconds of real-time scheduling in each of its periods.
    pub realtime_runtime: Option<i64>,
    /// The period of real-time scheduling, in microseconds.
    pub realtime_period: Option<u64>,
    /// The processors to run on, `0-3,7`.
    pub cpus: Option<String>,
    /// The memory nodes to use, `0-1`.
    pub mems: Option<String>,
    /// 1: run only when nobody else wants to.
    pub idle: Option<i64>,
}

/// The limit of processes.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Pids {
    /// How many; 0 or less is no limit.
    pub limit: i64,
}

/// Disk limits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockIo {
    /// The weight in cgroup v1's scale, 10 to 1000.
    pub weight: Option<u16>,
    /// The weight of the group's own processes beside its child groups.
    pub leaf_weight: Option<u16>,
    /// Weights for some devices.
    pub weight_device: Vec<WeightDevice>,
    /// Bytes read a second.
    pub throttle_read_bps_device: Vec<Throttle>,
    /// Bytes written a second.
    pub throttle_write_bps_device: Vec<Throttle>,
    /// Reads a second.
    #[serde(rename = "throttleReadIOPSDevice")]
    pub throttle_read_iops_device: Vec<Throttle>,
    /// Writes a second.
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub throttle_write_iops_device: Vec<Throttle>,
}

/// A device's weight.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightDevice {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// The weight, 10 to 1000.
    #[serde(default)]
    pub weight: Option<u16>,
    /// The weight of the group's own processes beside its child groups.
    #[serde(default)]
    pub leaf_weight: Option<u16>,
}

/// A device's limit.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Throttle {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A limit of huge pages.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HugepageLimit {
    /// `2MB`, `1GB`, ….
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// What a network card's queues and filters see.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The class of packets (net_cls).
    #[serde(rename = "classID")]
    pub class_id: Option<u32>,
    /// Priorities by network interface (net_prio).
    pub priorities: Vec<InterfacePriority>,
}

/// A network interface's priority.
#[derive(Debug, Clone, Deserialize)]
pub struct InterfacePriority {
    /// The interface.
    pub name: String,
    /// The priority.
    pub priority: u32,
}

/// Limits of an RDMA device.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rdma {
    /// Handles.
    pub hca_handles: Option<u32>,
    /// Objects.
    pub hca_objects: Option<u32>,
}

/// Allows or denies device nodes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DeviceRule {
    /// Allow, or deny.
    pub allow: bool,
    /// Which kind; absent: all.
    #[serde(rename = "type", default)]
    pub kind: Option<DeviceType>,
    /// The major number; absent or negative: all.
    #[serde(default)]
    pub major: Option<i64>,
    /// The minor number; absent or negative: all.
    #[serde(default)]
    pub minor: Option<i64>,
    /// Some of `r`, `w` and `m`(knod); absent or empty: all.
    #[serde(default)]
    pub access: Option<String>,
}
