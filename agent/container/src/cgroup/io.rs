//! The io controller.

use super::setting::Setting;
use crate::{
    error::Error,
    spec::{BlockIo, Throttle},
};

pub(super) fn settings(io: &BlockIo, all: &mut Vec<Setting>) -> Result<(), Error> {
    if let Some(shares) = io.weight.filter(|weight| *weight != 0) {
        all.push(Setting::new("io.weight", format_args!("default {}", weight(shares)?)));
    }
    for device in &io.weight_device {
        if let Some(shares) = device.weight {
            let (major, minor) = (device.major, device.minor);
            let weight = weight(shares)?;
            all.push(Setting::new("io.weight", format_args!("{major}:{minor} {weight}")));
        }
    }
    throttle("rbps", &io.throttle_read_bps_device, all);
    throttle("wbps", &io.throttle_write_bps_device, all);
    throttle("riops", &io.throttle_read_iops_device, all);
    throttle("wiops", &io.throttle_write_iops_device, all);
    Ok(())
}

fn throttle(key: &str, limits: &[Throttle], all: &mut Vec<Setting>) {
    for Throttle { major, minor, rate } in limits {
        all.push(if *rate == 0 {
            Setting::new("io.max", format_args!("{major}:{minor} {key}=max"))
        } else {
            Setting::new("io.max", format_args!("{major}:{minor} {key}={rate}"))
        });
    }
}

/// A weight of cgroup v1, 10 to 1000, to one of v2, 1 to 10000.
fn weight(shares: u16) -> Result<u32, Error> {
    if (10..=1000).contains(&shares) {
        Ok(1 + (u32::from(shares) - 10) * 9999 / 990)
    } else {
        Err(Error::invalid("linux.resources.blockIO.weight", shares, "10 to 1000 is wanted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_limits() {
        let io = BlockIo {
            weight: Some(500),
            throttle_read_bps_device: vec![Throttle { major: 254, minor: 0, rate: 1 << 20 }],
            throttle_write_iops_device: vec![Throttle { major: 254, minor: 16, rate: 0 }],
            ..BlockIo::default()
        };
        let mut all = Vec::new();
        settings(&io, &mut all).unwrap();
        let values: Vec<_> = all.iter().map(|s| format!("{}={}", s.file, s.value)).collect();
        assert_eq!(
            values,
            ["io.weight=default 4950", "io.max=254:0 rbps=1048576", "io.max=254:16 wiops=max"]
        );
        assert_eq!(weight(10).unwrap(), 1);
        assert_eq!(weight(1000).unwrap(), 10_000);
        assert!(weight(9).is_err() && weight(1001).is_err());
    }
}
