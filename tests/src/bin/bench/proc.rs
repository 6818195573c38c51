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

/// A process's parent.
pub(crate) fn parent(pid: u32) -> Result<u32, Reason> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let number = text.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    number.ok_or_else(|| format!("{path} has no PPid"))
}

/// The VMM of a monitor, its only child.
pub(crate) fn vmm_of(monitor: u32) -> Result<u32, Reason> {
    Ok(*children(monitor)?.first().ok_or("the monitor has no VMM")?)
}

/// Processes whose parent is one of this process's threads.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>, Reason> {
    let tasks = format!("/proc/{pid}/task");
    let failed = |error: std::io::Error| format!("{tasks}: {error}");
    let mut all = Vec::new();
    for task in fs::read_dir(&tasks).map_err(failed)? {
        let path = task.map_err(failed)?.path().join("children");
        // A thread that has ended has none.
        let text = fs::read_to_string(path).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    Ok(all)
}
