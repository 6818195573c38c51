//! What the host says of memory (proc(5)).

use std::fs;

use super::AdmissionError;

const MEMINFO: &str = "/proc/meminfo";

/// The host's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// What can be taken without swapping: free memory and what the kernel would give up.
    pub(super) available: u64,
    /// All.
    pub(super) total: u64,
}

impl Memory {
    pub(super) fn of_host() -> Result<Self, AdmissionError> {
        let error = |source| AdmissionError::Io { what: "read", path: MEMINFO.into(), source };
        let text = fs::read_to_string(MEMINFO).map_err(error)?;
        Self::parse(&text).ok_or_else(|| error(std::io::ErrorKind::InvalidData.into()))
    }

    pub(super) fn parse(meminfo: &str) -> Option<Self> {
        let available = kib(meminfo, "MemAvailable:")?;
        Some(Self { available, total: kib(meminfo, "MemTotal:")? })
    }
}

/// What this process has in memory of its own, in bytes; what it shares with a file, as clones do with their template, is not counted.
pub(super) fn taken(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kib(&status, "RssAnon:").unwrap_or(0)
}

/// The number of bytes of `NAME:   12 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}
