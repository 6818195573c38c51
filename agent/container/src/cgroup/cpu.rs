//! The cpu and cpuset controllers.

use super::setting::Setting;
use crate::{error::Error, spec::Cpu};

/// `cpu.max`'s period when the specification has none, in microseconds.
const PERIOD: u64 = 100_000;

pub(super) fn settings(cpu: &Cpu, all: &mut Vec<Setting>) -> Result<(), Error> {
    if cpu.idle == Some(1) {
        all.push(Setting::new("cpu.idle", 1));
    } else if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        all.push(Setting::new("cpu.weight", weight(shares)?));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0);
    if quota.is_some() || cpu.period.is_some_and(|period| period != 0) {
        let period = cpu.period.filter(|period| *period != 0).unwrap_or(PERIOD);
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        all.push(Setting::new("cpu.max", format_args!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst {
        all.push(Setting::new("cpu.max.burst", burst));
    }
    if let Some(cpus) = cpu.cpus.as_ref().filter(|list| !list.is_empty()) {
        all.push(Setting::new("cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems.as_ref().filter(|list| !list.is_empty()) {
        all.push(Setting::new("cpuset.mems", mems));
    }
    Ok(())
}

/// Shares, 2 to 262144, to a weight, 1 to 10000 (the linear mapping that Kubernetes uses).
fn weight(shares: u64) -> Result<u64, Error> {
    if (2..=262_144).contains(&shares) {
        Ok(1 + (shares - 2) * 9999 / 262_142)
    } else {
        Err(Error::invalid("linux.resources.cpu.shares", shares, "2 to 262144 is wanted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(cpu: &Cpu) -> Vec<String> {
        let mut all = Vec::new();
        settings(cpu, &mut all).unwrap();
        all.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares).unwrap(), expected);
        }
        assert!(weight(1).is_err() && weight(262_145).is_err());
    }

    #[test]
    fn quotas_have_a_period() {
        let cpu = Cpu { quota: Some(50_000), cpus: Some("0-1".into()), ..Cpu::default() };
        assert_eq!(values(&cpu), ["cpu.max=50000 100000", "cpuset.cpus=0-1"]);
        let cpu = Cpu { quota: Some(-1), period: Some(20_000), ..Cpu::default() };
        assert_eq!(values(&cpu), ["cpu.max=max 20000"]);
        assert!(values(&Cpu::default()).is_empty());
    }
}
