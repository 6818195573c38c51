//! The controllers cpu and cpuacct.

use bulkhead_protocol::stats;

use super::{
    Version,
    directory::{Directory, row},
    setting::Settings,
};
use crate::{error::Error, spec::Cpu};

/// `cpu.max`'s period when the specification has none, in microseconds.
const PERIOD: u64 = 100_000;
/// Nanoseconds in a microsecond, and in one of the kernel's user-visible clock ticks (`USER_HZ`).
const MICROSECOND: u64 = 1000;
const TICK: u64 = 10_000_000;

pub(super) fn settings(cpu: &Cpu, version: Version, all: &mut Settings) -> Result<(), Error> {
    if let Some(idle) = cpu.idle {
        if !(0..=1).contains(&idle) {
            return Err(Error::invalid("linux.resources.cpu.idle", idle, "0 or 1 is wanted"));
        }
        all.limit("cpu.idle", idle);
    }
    // The kernel takes no weight for a group that is idle.
    let shares = cpu.shares.filter(|shares| *shares != 0 && cpu.idle != Some(1));
    if let Some(shares) = shares {
        if !(2..=262_144).contains(&shares) {
            let why = "2 to 262144 is wanted";
            return Err(Error::invalid("linux.resources.cpu.shares", shares, why));
        }
        match version {
            Version::V1 => all.limit("cpu.shares", shares),
            Version::V2 => all.limit("cpu.weight", weight(shares)),
        }
    }
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period != 0);
    match version {
        Version::V1 => v1(cpu, quota, period, all),
        Version::V2 => v2(cpu, quota, period, all),
    }
}

fn v1(cpu: &Cpu, quota: Option<i64>, period: Option<u64>, all: &mut Settings) -> Result<(), Error> {
    if let Some(period) = period {
        all.limit("cpu.cfs_period_us", period);
    }
    if let Some(quota) = quota {
        all.limit("cpu.cfs_quota_us", quota);
    }
    if let Some(burst) = cpu.burst {
        all.limit("cpu.cfs_burst_us", burst);
    }
    if let Some(period) = cpu.realtime_period.filter(|period| *period != 0) {
        all.limit("cpu.rt_period_us", period);
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|runtime| *runtime != 0) {
        all.limit("cpu.rt_runtime_us", runtime);
    }
    Ok(())
}

fn v2(cpu: &Cpu, quota: Option<i64>, period: Option<u64>, all: &mut Settings) -> Result<(), Error> {
    if quota.is_some() || period.is_some() {
        let period = period.unwrap_or(PERIOD);
        match quota {
            Some(quota) if quota > 0 => all.limit("cpu.max", format_args!("{quota} {period}")),
            _ => all.limit("cpu.max", format_args!("max {period}")),
        }
    }
    if let Some(burst) = cpu.burst {
        all.limit("cpu.max.burst", burst);
    }
    match (cpu.realtime_runtime.unwrap_or(0), cpu.realtime_period.unwrap_or(0)) {
        (0, 0) => Ok(()),
        (runtime, period) => Err(Error::invalid(
            "linux.resources.cpu.realtimeRuntime and realtimePeriod",
            format_args!("{runtime} of {period}"),
            "cgroup v2 has no real-time limits; leave them out",
        )),
    }
}

/// Shares, 2 to 262144, to a weight, 1 to 10000 (the linear mapping that Kubernetes uses).
fn weight(shares: u64) -> u64 {
    1 + shares.saturating_sub(2) * 9999 / 262_142
}

/// `usage` is the directory of `cpuacct`, `limits` that of `cpu`; in version 2 they are one.
pub(super) fn stats(usage: Option<&Directory>, limits: Option<&Directory>) -> stats::Cpu {
    let mut cpu = stats::Cpu::default();
    if let Some(dir) = limits {
        let table = dir.table("cpu.stat");
        let throttled_time = match dir.version {
            Version::V1 => row(&table, "throttled_time"),
            Version::V2 => row(&table, "throttled_usec").saturating_mul(MICROSECOND),
        };
        cpu.throttling = stats::Throttling {
            periods: row(&table, "nr_periods"),
            throttled_periods: row(&table, "nr_throttled"),
            throttled_time,
        };
        if dir.version == Version::V2 {
            let time = |name| row(&table, name).saturating_mul(MICROSECOND);
            cpu.usage.total = time("usage_usec");
            cpu.usage.user = time("user_usec");
            cpu.usage.kernel = time("system_usec");
        }
    }
    if let Some(dir) = usage.filter(|dir| dir.version == Version::V1) {
        cpu.usage.total = dir.number("cpuacct.usage").unwrap_or(0);
        cpu.usage.percpu = dir.numbers("cpuacct.usage_percpu");
        cpu.usage.percpu_kernel = dir.numbers("cpuacct.usage_percpu_sys");
        cpu.usage.percpu_user = dir.numbers("cpuacct.usage_percpu_user");
        let table = dir.table("cpuacct.stat");
        cpu.usage.user = row(&table, "user").saturating_mul(TICK);
        cpu.usage.kernel = row(&table, "system").saturating_mul(TICK);
    }
    cpu
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::setting::lines;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected);
        }
        for bad in [r#"{"shares": 1}"#, r#"{"shares": 262145}"#, r#"{"idle": 2}"#] {
            let bad = format!(r#"{{"cpu": {bad}}}"#);
            assert!(lines(&bad, Version::V1).is_err() && lines(&bad, Version::V2).is_err());
        }
    }

    #[test]
    fn both_versions() {
        for (cpu, v1, v2) in [
            ("{}", vec![], vec![]),
            (r#"{"shares": 0, "quota": 0, "period": 0, "cpus": ""}"#, vec![], vec![]),
            (
                r#"{"quota": 50000, "cpus": "0-1", "mems": "0"}"#,
                vec!["cpu.cfs_quota_us=50000", "cpuset.cpus=0-1", "cpuset.mems=0"],
                vec!["cpu.max=50000 100000", "cpuset.cpus=0-1", "cpuset.mems=0"],
            ),
            (
                r#"{"quota": -1, "period": 20000, "burst": 5}"#,
                vec!["cpu.cfs_period_us=20000", "cpu.cfs_quota_us=-1", "cpu.cfs_burst_us=5"],
                vec!["cpu.max=max 20000", "cpu.max.burst=5"],
            ),
            (r#"{"idle": 1, "shares": 512}"#, vec!["cpu.idle=1"], vec!["cpu.idle=1"]),
            (
                r#"{"idle": 0, "shares": 1024}"#,
                vec!["cpu.idle=0", "cpu.shares=1024"],
                vec!["cpu.idle=0", "cpu.weight=39"],
            ),
        ] {
            let resources = format!(r#"{{"cpu": {cpu}}}"#);
            assert_eq!(lines(&resources, Version::V1).unwrap(), v1, "{cpu}");
            assert_eq!(lines(&resources, Version::V2).unwrap(), v2, "{cpu}");
        }
        let realtime = r#"{"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 2000}}"#;
        assert_eq!(
            lines(realtime, Version::V1).unwrap(),
            ["cpu.rt_period_us=2000", "cpu.rt_runtime_us=1000"]
        );
        assert!(lines(realtime, Version::V2).unwrap_err().contains("realtimeRuntime"));
    }
}
