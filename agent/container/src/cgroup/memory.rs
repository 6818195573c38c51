//! The memory controller.

use super::setting::Setting;
use crate::{error::Error, spec::Memory};

pub(super) fn settings(memory: &Memory, all: &mut Vec<Setting>) -> Result<(), Error> {
    if let Some(swap) = swap_only(memory)? {
        all.push(Setting::new("memory.swap.max", or_max(swap)));
    }
    if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
        all.push(Setting::new("memory.max", or_max(limit)));
    }
    if let Some(low) = memory.reservation.filter(|low| *low != 0) {
        all.push(Setting::new("memory.low", or_max(low)));
    }
    Ok(())
}

/// The specification's limit is of memory and swap together; cgroup v2's of swap alone.
fn swap_only(memory: &Memory) -> Result<Option<i64>, Error> {
    let Some(swap) = memory.swap.filter(|swap| *swap != 0) else { return Ok(None) };
    if swap < 0 {
        return Ok(Some(-1));
    }
    match memory.limit {
        Some(limit) if limit > 0 && swap >= limit => Ok(Some(swap - limit)),
        Some(limit) if limit > 0 => Err(Error::invalid(
            "linux.resources.memory.swap",
            swap,
            "it counts memory and swap and must not be under memory.limit",
        )),
        _ => Err(Error::invalid(
            "linux.resources.memory.swap",
            swap,
            "it counts memory and swap and needs a memory.limit",
        )),
    }
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Reads `memory.events`.
pub(super) fn oom_killed(events: &str) -> bool {
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(memory: Memory) -> Vec<String> {
        let mut all = Vec::new();
        settings(&memory, &mut all).unwrap();
        all.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }

    #[test]
    fn swap_is_counted_apart() {
        let memory = Memory { limit: Some(100), swap: Some(150), reservation: Some(80) };
        assert_eq!(values(memory), ["memory.swap.max=50", "memory.max=100", "memory.low=80"]);
        let unlimited = Memory { limit: Some(-1), swap: Some(-1), reservation: Some(0) };
        assert_eq!(values(unlimited), ["memory.swap.max=max", "memory.max=max"]);
        for (limit, swap) in [(Some(100), 50), (None, 50), (Some(-1), 50)] {
            let bad = Memory { limit, swap: Some(swap), reservation: None };
            assert!(settings(&bad, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn kills_are_found() {
        assert!(oom_killed("low 0\noom 1\noom_kill 2\noom_group_kill 0\n"));
        assert!(!oom_killed("low 0\noom 1\noom_kill 0\noom_group_kill 3\n"));
    }
}
