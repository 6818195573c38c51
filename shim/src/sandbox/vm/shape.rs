//! How big a container's machine is.

use serde_json::Value;

/// What the guest's kernel and agent keep of a machine's memory, in MiB, beside a thirty-second for page structures and tables.
const KEPT_MIB: u64 = 16;
/// The smallest machine that boots.
const MIN_MIB: u64 = 64;
/// The most virtual CPUs of a machine.
const MAX_VCPUS: u64 = 8;

/// A machine's memory in MiB: so much that the container reaches its own limit before the machine's, or `default` without one.
/// `most`: the host's memory.
pub(super) fn memory_mib(spec: &Value, default: u64, most: u64) -> u64 {
    let limit = spec.pointer("/linux/resources/memory/limit").and_then(Value::as_i64);
    let wanted = match limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
    {
        Some(limit) => {
            let limit = limit.div_ceil(1 << 20);
            limit.saturating_add(KEPT_MIB).saturating_mul(32).div_ceil(31)
        }
        None => default,
    };
    wanted.min(most).max(MIN_MIB)
}

/// A machine's processors: as many as the container's time and set of processors need, one without such limits.
pub(super) fn vcpus(spec: &Value) -> u8 {
    let cpu = |key: &str| spec.pointer("/linux/resources/cpu").and_then(|cpu| cpu.get(key));
    let positive = |key: &str| cpu(key).and_then(Value::as_i64).filter(|n| *n > 0);
    /// The kernel's own, in microseconds.
    const PERIOD: i64 = 100_000;
    let time = positive("quota").map(|quota| {
        let period = positive("period").unwrap_or(PERIOD);
        u64::try_from(quota).unwrap_or(1).div_ceil(u64::try_from(period).unwrap_or(1))
    });
    let set = cpu("cpus").and_then(Value::as_str).and_then(count);
    let wanted = match (time, set) {
        (Some(time), Some(set)) => time.min(set),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => 1,
    };
    u8::try_from(wanted.clamp(1, MAX_VCPUS)).unwrap_or(1)
}

/// How many processors a list has, as `0-2,5` (cpuset(7)).
fn count(list: &str) -> Option<u64> {
    list.split(',')
        .filter(|part| !part.trim().is_empty())
        .try_fold(0_u64, |sum, part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
        })
        .filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_is_the_limit_and_what_the_guest_keeps() {
        let of = |limit: Value| {
            let spec = json!({ "linux": { "resources": { "memory": { "limit": limit } } } });
            memory_mib(&spec, 256, 4096)
        };
        assert_eq!(of(json!(256 << 20)), 281);
        assert_eq!(of(json!((100 << 20) + 1)), 121);
        assert_eq!(of(json!(1 << 20)), 64);
        assert_eq!(of(json!(i64::MAX)), 4096);
        for none in [json!(-1), json!(0), json!(null)] {
            assert_eq!(of(none), 256);
        }
        // The container's limit is inside what the machine leaves.
        for limit in [64_u64, 100, 512, 3000] {
            let machine = of(json!(limit << 20));
            assert!(machine - machine / 32 - KEPT_MIB >= limit, "{limit} {machine}");
        }
    }

    #[test]
    fn processors_are_counted() {
        for (cpu, want) in [
            (json!({}), 1),
            (json!({ "quota": 50_000, "period": 100_000 }), 1),
            (json!({ "quota": 150_000, "period": 100_000 }), 2),
            (json!({ "quota": 300_000 }), 3),
            (json!({ "quota": -1, "period": 100_000 }), 1),
            (json!({ "quota": 9_000_000, "period": 100_000 }), 8),
            (json!({ "cpus": "0-2,5" }), 4),
            (json!({ "cpus": "3" }), 1),
            (json!({ "cpus": "0-3", "quota": 200_000, "period": 100_000 }), 2),
            (json!({ "cpus": "" }), 1),
            (json!({ "cpus": "x" }), 1),
            (json!({ "cpus": "5-2" }), 1),
            (json!({ "cpus": "0-18446744073709551615" }), 1),
        ] {
            let spec = json!({ "linux": { "resources": { "cpu": cpu } } });
            assert_eq!(vcpus(&spec), want, "{cpu}");
        }
    }
}
