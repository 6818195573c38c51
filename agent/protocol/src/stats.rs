//! What a container uses, in the form of the `data` of `runc events --stats`, whatever the version of cgroups that counted
//! it. What was not counted is 0 or empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Time on processors.
    pub cpu: Cpu,
    /// Processors and memory nodes that may be used.
    pub cpuset: CpuSet,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Disks.
    pub blkio: Blkio,
    /// Huge pages, by their size (`2MB`).
    pub hugetlb: BTreeMap<String, Hugetlb>,
}

/// Time on processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// What was used.
    pub usage: CpuUsage,
    /// How often the quota was used up.
    pub throttling: Throttling,
}

/// Nanoseconds on processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// On all of them.
    pub total: u64,
    /// On each; cgroup v1 only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// On each, in the kernel; cgroup v1 only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// On each, in programs; cgroup v1 only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// How often the quota was used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Throttling {
    /// Periods in which something ran.
    pub periods: u64,
    /// Those of them in which it had to stop.
    pub throttled_periods: u64,
    /// Nanoseconds without a processor because of it.
    pub throttled_time: u64,
}

/// Processors and memory nodes that may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuSet {
    /// The processors' numbers.
    pub cpus: Vec<u16>,
    /// The memory nodes' numbers.
    pub mems: Vec<u16>,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Bytes in the page cache.
    pub cache: u64,
    /// Memory.
    pub usage: MemoryUsage,
    /// Memory and swap together.
    pub swap: MemoryUsage,
    /// The kernel's memory.
    pub kernel: MemoryUsage,
    /// The kernel's memory for TCP buffers.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryUsage,
    /// The kernel's `memory.stat`, whose names differ between versions.
    pub raw: BTreeMap<String, u64>,
}

/// Bytes of one kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryUsage {
    /// The limit; all ones when there is none.
    pub limit: u64,
    /// In use.
    pub usage: u64,
    /// The most that was ever in use.
    pub max: u64,
    /// How often the limit was in the way.
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0 when there is no limit.
    pub limit: u64,
}

/// Disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blkio {
    /// Bytes.
    #[serde(rename = "ioServiceBytesRecursive", skip_serializing_if = "Vec::is_empty")]
    pub service_bytes: Vec<BlkioEntry>,
    /// Operations.
    #[serde(rename = "ioServicedRecursive", skip_serializing_if = "Vec::is_empty")]
    pub serviced: Vec<BlkioEntry>,
}

/// One count of one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// The disk's major number.
    pub major: u64,
    /// The disk's minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Discard`, ….
    pub op: String,
    /// The count.
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hugetlb {
    /// In use.
    pub usage: u64,
    /// The most that was ever in use.
    pub max: u64,
    /// How often the limit was in the way.
    pub failcnt: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_runc() {
        let mut stats = Stats::default();
        stats.cpu.throttling.throttled_time = 5;
        stats.memory.kernel_tcp.limit = u64::MAX;
        stats.blkio.serviced =
            vec![BlkioEntry { major: 8, minor: 1, op: "Read".to_owned(), value: 3 }];
        let json = serde_json::to_value(&stats).unwrap();
        for (pointer, value) in [
            ("/cpu/usage/total", 0),
            ("/cpu/throttling/throttledTime", 5),
            ("/memory/kernelTCP/limit", u64::MAX),
            ("/pids/current", 0),
            ("/blkio/ioServicedRecursive/0/value", 3),
        ] {
            assert_eq!(
                json.pointer(pointer).and_then(|value| value.as_u64()),
                Some(value),
                "{pointer}"
            );
        }
        assert!(json.pointer("/cpu/usage/percpu").is_none());
        assert_eq!(serde_json::from_value::<Stats>(json).unwrap(), stats);
        assert_eq!(serde_json::from_str::<Stats>("{}").unwrap(), Stats::default());
    }
}
