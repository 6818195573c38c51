//! The memory controller.

use bulkhead_protocol::stats;

use super::{
    Version,
    directory::{self, Directory, row},
    setting::{Missing, Settings},
};
use crate::{error::Error, spec::Memory};

pub(super) fn settings(memory: &Memory, version: Version, all: &mut Settings) -> Result<(), Error> {
    match version {
        Version::V1 => v1(memory, all),
        Version::V2 => v2(memory, all),
    }
}

/// A limit that is one, or none at all.
fn given(limit: Option<i64>) -> Option<i64> {
    limit.filter(|limit| *limit != 0)
}

fn v1(memory: &Memory, all: &mut Settings) -> Result<(), Error> {
    check_swap(memory)?;
    if memory.use_hierarchy == Some(true) {
        all.or("memory.use_hierarchy", 1, Missing::Holds);
    }
    if let Some(limit) = given(memory.limit) {
        all.limit("memory.limit_in_bytes", limit.max(-1));
    }
    match given(memory.swap) {
        Some(swap) => all.limit("memory.memsw.limit_in_bytes", swap.max(-1)),
        // Memory without a limit may not stay under one that it shares with swap.
        None if memory.limit == Some(-1) => {
            all.or("memory.memsw.limit_in_bytes", -1, Missing::Holds);
        }
        None => {}
    }
    if let Some(low) = given(memory.reservation) {
        all.limit("memory.soft_limit_in_bytes", low.max(-1));
    }
    if let Some(kernel) = given(memory.kernel) {
        all.or("memory.kmem.limit_in_bytes", kernel.max(-1), Missing::Warn);
    }
    if let Some(tcp) = given(memory.kernel_tcp) {
        all.or("memory.kmem.tcp.limit_in_bytes", tcp.max(-1), Missing::Warn);
    }
    if let Some(swappiness) = swappiness(memory)? {
        all.limit("memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer == Some(true) {
        all.limit("memory.oom_control", 1);
    }
    Ok(())
}

fn v2(memory: &Memory, all: &mut Settings) -> Result<(), Error> {
    check_swap(memory)?;
    // The specification's limit is of memory and swap together; cgroup v2's of swap alone.
    let swap = match (given(memory.swap), given(memory.limit)) {
        (Some(swap), Some(limit)) if swap > 0 && limit > 0 => Some(swap - limit),
        (Some(_), _) | (None, Some(-1)) => Some(-1),
        (None, _) => None,
    };
    if let Some(swap) = swap {
        // A kernel that counts no swap, as a guest's, has none.
        all.or("memory.swap.max", or_max(swap), Missing::Holds);
    }
    if let Some(limit) = given(memory.limit) {
        all.limit("memory.max", or_max(limit));
    }
    if let Some(low) = given(memory.reservation) {
        all.limit("memory.low", or_max(low));
    }
    let unknown = [
        ("memory.kernel", given(memory.kernel).is_some()),
        ("memory.kernelTCP", given(memory.kernel_tcp).is_some()),
        ("memory.swappiness", swappiness(memory)?.is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer == Some(true)),
        ("memory.useHierarchy = false", memory.use_hierarchy == Some(false)),
    ];
    for (property, _) in unknown.into_iter().filter(|(_, asked)| *asked) {
        all.unknown(property, Version::V2);
    }
    Ok(())
}

fn check_swap(memory: &Memory) -> Result<(), Error> {
    let Some(swap) = given(memory.swap).filter(|swap| *swap > 0) else { return Ok(()) };
    let why = match memory.limit {
        Some(limit) if limit > 0 && swap >= limit => return Ok(()),
        Some(limit) if limit > 0 => "it counts memory and swap and must not be under memory.limit",
        _ => "it counts memory and swap and needs a memory.limit",
    };
    Err(Error::invalid("linux.resources.memory.swap", swap, why))
}

/// What docker and podman send for «as the host's» is all ones.
fn swappiness(memory: &Memory) -> Result<Option<u64>, Error> {
    match memory.swappiness {
        None | Some(u64::MAX) => Ok(None),
        Some(value @ 0..=100) => Ok(Some(value)),
        Some(value) => {
            let why = "0 to 100 is wanted";
            Err(Error::invalid("linux.resources.memory.swappiness", value, why))
        }
    }
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// `checkBeforeUpdate`: a limit under what is in use is refused. Version 1's kernel does that by itself where it cannot
/// reclaim enough; version 2's would kill.
pub(super) fn check(memory: &Memory, dir: &Directory) -> Result<(), Error> {
    let limit = given(memory.limit).and_then(|limit| u64::try_from(limit).ok());
    let Some(limit) = limit.filter(|_| memory.check_before_update == Some(true)) else {
        return Ok(());
    };
    let file = match dir.version {
        Version::V1 => "memory.usage_in_bytes",
        Version::V2 => "memory.current",
    };
    match dir.number(file) {
        Some(usage) if usage > limit => Err(Error::invalid(
            "linux.resources.memory.limit",
            format_args!("{limit} is under the {usage} bytes in use"),
            "memory.checkBeforeUpdate forbids it",
        )),
        _ => Ok(()),
    }
}

/// The file that counts processes that were killed for want of memory.
pub(super) fn oom_file(version: Version) -> &'static str {
    match version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    }
}

/// How many processes were killed for want of memory, from the text of [`oom_file`].
pub(super) fn oom_kills(text: &str) -> u64 {
    row(&directory::table(text), "oom_kill")
}

pub(super) fn stats(dir: &Directory) -> stats::Memory {
    let raw: Vec<_> = dir.table("memory.stat");
    let number = |file: &str| dir.number(file);
    let mut memory = stats::Memory::default();
    match dir.version {
        Version::V1 => {
            let entry = |name: &str| stats::MemoryUsage {
                limit: number(&format!("memory.{name}limit_in_bytes")).unwrap_or(0),
                usage: number(&format!("memory.{name}usage_in_bytes")).unwrap_or(0),
                max: number(&format!("memory.{name}max_usage_in_bytes")).unwrap_or(0),
                failcnt: number(&format!("memory.{name}failcnt")).unwrap_or(0),
            };
            memory.cache = row(&raw, "cache");
            memory.usage = entry("");
            memory.swap = entry("memsw.");
            memory.kernel = entry("kmem.");
            memory.kernel_tcp = entry("kmem.tcp.");
        }
        Version::V2 => {
            let usage = number("memory.current").unwrap_or(0);
            let limit = number("memory.max");
            memory.cache = row(&raw, "file");
            memory.usage = stats::MemoryUsage {
                limit: limit.unwrap_or(u64::MAX),
                usage,
                max: number("memory.peak").unwrap_or(0),
                failcnt: row(&dir.table("memory.events"), "max"),
            };
            // As version 1 has it: memory and swap together.
            if let Some(swap) = number("memory.swap.current") {
                let most = number("memory.swap.max").zip(limit);
                memory.swap.usage = usage.saturating_add(swap);
                memory.swap.limit =
                    most.map_or(u64::MAX, |(swap, limit)| limit.saturating_add(swap));
            }
            memory.kernel.usage = row(&raw, "kernel");
            memory.kernel_tcp.usage = row(&raw, "sock");
        }
    }
    memory.raw = raw.into_iter().collect();
    memory
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::setting::lines;

    #[test]
    fn kills_are_found() {
        assert_eq!(oom_kills("low 0\noom 1\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(oom_kills("low 0\noom 1\noom_kill 0\noom_group_kill 3\n"), 0);
        assert_eq!(oom_kills("oom_kill_disable 1\nunder_oom 0\noom_kill 1\n"), 1);
    }

    #[test]
    fn both_versions() {
        for (memory, v1, v2) in [
            (
                r#"{"limit": 100, "swap": 150, "reservation": 80}"#,
                vec![
                    "memory.limit_in_bytes=100",
                    "memory.memsw.limit_in_bytes=150",
                    "memory.soft_limit_in_bytes=80",
                ],
                vec!["memory.swap.max=50", "memory.max=100", "memory.low=80"],
            ),
            (
                r#"{"limit": -1}"#,
                vec!["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
                vec!["memory.swap.max=max", "memory.max=max"],
            ),
            (
                r#"{"limit": 100, "swap": -1, "reservation": 0}"#,
                vec!["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=-1"],
                vec!["memory.swap.max=max", "memory.max=100"],
            ),
            (r#"{"swappiness": 18446744073709551615}"#, vec![], vec![]),
            (
                r#"{"swappiness": 0, "disableOOMKiller": true, "kernel": 5, "kernelTCP": 6, "useHierarchy": true}"#,
                vec![
                    "memory.use_hierarchy=1",
                    "memory.kmem.limit_in_bytes=5",
                    "memory.kmem.tcp.limit_in_bytes=6",
                    "memory.swappiness=0",
                    "memory.oom_control=1",
                ],
                vec![
                    "warning: linux.resources.memory.kernel is ignored: cgroup v2 has no such setting",
                    "warning: linux.resources.memory.kernelTCP is ignored: cgroup v2 has no such setting",
                    "warning: linux.resources.memory.swappiness is ignored: cgroup v2 has no such setting",
                    "warning: linux.resources.memory.disableOOMKiller is ignored: cgroup v2 has no such setting",
                ],
            ),
            (r#"{"disableOOMKiller": false}"#, vec![], vec![]),
        ] {
            let resources = format!(r#"{{"memory": {memory}}}"#);
            assert_eq!(lines(&resources, Version::V1).unwrap(), v1, "{memory}");
            assert_eq!(lines(&resources, Version::V2).unwrap(), v2, "{memory}");
        }
        for bad in [
            r#"{"limit": 100, "swap": 50}"#,
            r#"{"swap": 50}"#,
            r#"{"limit": -1, "swap": 50}"#,
            r#"{"swappiness": 101}"#,
        ] {
            let bad = format!(r#"{{"memory": {bad}}}"#);
            assert!(
                lines(&bad, Version::V1).is_err() && lines(&bad, Version::V2).is_err(),
                "{bad}"
            );
        }
    }
}
