//! What the kernel says of a process.

use std::fs;

use super::Reason;

/// KiB of a process's memory: a field of `/proc/PID/smaps_rollup`, as `Rss`.
pub(crate) fn rollup(pid: u32, field: &str) -> Result<f64, Reason> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| format!("{path} has no {field}"))
}

/// The VMM of a monitor, its only child.
pub(crate) fn vmm_of(monitor: u32) -> Result<u32, Reason> {
    let children = format!("/proc/{monitor}/task/{monitor}/children");
    let text = fs::read_to_string(&children).map_err(|error| format!("{children}: {error}"))?;
    let vmm = text.split_whitespace().find_map(|word| word.parse::<u32>().ok());
    Ok(vmm.ok_or("the monitor has no VMM")?)
}
