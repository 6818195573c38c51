//! The controller of disks: `blkio` in version 1, `io` in version 2.

use bulkhead_protocol::stats::{Blkio, BlkioEntry};

use super::{
    Version,
    directory::Directory,
    setting::{Missing, Settings},
};
use crate::{
    error::Error,
    spec::{BlockIo, Throttle},
};

pub(super) fn settings(io: &BlockIo, version: Version, all: &mut Settings) -> Result<(), Error> {
    weights(io, version, all)?;
    for (limits, v1, v2) in [
        (&io.throttle_read_bps_device, "blkio.throttle.read_bps_device", "rbps"),
        (&io.throttle_write_bps_device, "blkio.throttle.write_bps_device", "wbps"),
        (&io.throttle_read_iops_device, "blkio.throttle.read_iops_device", "riops"),
        (&io.throttle_write_iops_device, "blkio.throttle.write_iops_device", "wiops"),
    ] {
        for Throttle { major, minor, rate } in limits {
            match version {
                Version::V1 => all.limit(v1, format_args!("{major}:{minor} {rate}")),
                Version::V2 if *rate == 0 => {
                    all.limit("io.max", format_args!("{major}:{minor} {v2}=max"));
                }
                Version::V2 => all.limit("io.max", format_args!("{major}:{minor} {v2}={rate}")),
            }
        }
    }
    Ok(())
}

/// Weights go to whatever scheduler this kernel has: CFQ's or BFQ's file in version 1, BFQ's or the cost model's in
/// version 2, whose scale is another.
fn weights(io: &BlockIo, version: Version, all: &mut Settings) -> Result<(), Error> {
    let property = "blockIO.leafWeight";
    if let Some(weight) = given(io.weight, "linux.resources.blockIO.weight")? {
        match version {
            Version::V1 => {
                let bfq = Missing::Instead("blkio.bfq.weight", weight.to_string());
                all.or("blkio.weight", weight, bfq);
            }
            Version::V2 => {
                let cost = Missing::Instead("io.weight", format!("default {}", scaled(weight)));
                all.or("io.bfq.weight", weight, cost);
            }
        }
    }
    if let Some(weight) = given(io.leaf_weight, "linux.resources.blockIO.leafWeight")? {
        match version {
            Version::V1 => all.limit("blkio.leaf_weight", weight),
            Version::V2 => all.unknown(property, version),
        }
    }
    for device in &io.weight_device {
        let (major, minor) = (device.major, device.minor);
        let what = "linux.resources.blockIO.weightDevice.weight";
        if let Some(weight) = given(device.weight, what)? {
            let line = format!("{major}:{minor} {weight}");
            match version {
                Version::V1 => {
                    let bfq = Missing::Instead("blkio.bfq.weight_device", line.clone());
                    all.or("blkio.weight_device", line, bfq);
                }
                Version::V2 => {
                    let cost = format!("{major}:{minor} {}", scaled(weight));
                    all.or("io.bfq.weight", line, Missing::Instead("io.weight", cost));
                }
            }
        }
        let what = "linux.resources.blockIO.weightDevice.leafWeight";
        if let Some(weight) = given(device.leaf_weight, what)? {
            match version {
                Version::V1 => {
                    all.limit("blkio.leaf_weight_device", format_args!("{major}:{minor} {weight}"));
                }
                Version::V2 => all.unknown(property, version),
            }
        }
    }
    Ok(())
}

fn given(weight: Option<u16>, what: &'static str) -> Result<Option<u16>, Error> {
    match weight {
        None | Some(0) => Ok(None),
        Some(weight @ 10..=1000) => Ok(Some(weight)),
        Some(weight) => Err(Error::invalid(what, weight, "10 to 1000 is wanted")),
    }
}

/// A weight of version 1, 10 to 1000, in the scale of version 2, 1 to 10000.
fn scaled(weight: u16) -> u32 {
    1 + u32::from(weight).saturating_sub(10) * 9999 / 990
}

pub(super) fn stats(dir: &Directory) -> Blkio {
    match dir.version {
        Version::V1 => {
            // BFQ's are there always, and stay empty where another scheduler works.
            let read = |name: &str| {
                ["bfq", "throttle"]
                    .iter()
                    .filter_map(|who| dir.read(&format!("blkio.{who}.{name}_recursive")).ok())
                    .map(|text| v1_entries(&text))
                    .find(|entries| !entries.is_empty())
                    .unwrap_or_default()
            };
            Blkio { service_bytes: read("io_service_bytes"), serviced: read("io_serviced") }
        }
        Version::V2 => v2_stats(&dir.read("io.stat").unwrap_or_default()),
    }
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 Read 4096`
fn v1_entries(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (major, minor) = device(words.next()?)?;
            let op = words.next()?.to_owned();
            Some(BlkioEntry { major, minor, op, value: words.next()?.parse().ok()? })
        })
        .collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
fn v2_stats(text: &str) -> Blkio {
    let mut all = Blkio::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (op, list) = match key {
                "rbytes" => ("Read", &mut all.service_bytes),
                "wbytes" => ("Write", &mut all.service_bytes),
                "dbytes" => ("Discard", &mut all.service_bytes),
                "rios" => ("Read", &mut all.serviced),
                "wios" => ("Write", &mut all.serviced),
                "dios" => ("Discard", &mut all.serviced),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::setting::lines;

    #[test]
    fn weights_and_limits() {
        let io = r#"{"blockIO": {"weight": 500, "leafWeight": 20,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
            "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1048576}],
            "throttleWriteIOPSDevice": [{"major": 254, "minor": 16, "rate": 0}]}}"#;
        assert_eq!(
            lines(io, Version::V1).unwrap(),
            [
                "blkio.weight=500",
                "blkio.leaf_weight=20",
                "blkio.weight_device=8:0 10",
                "blkio.throttle.read_bps_device=254:0 1048576",
                "blkio.throttle.write_iops_device=254:16 0",
            ]
        );
        assert_eq!(
            lines(io, Version::V2).unwrap(),
            [
                "io.bfq.weight=500",
                "io.bfq.weight=8:0 10",
                "io.max=254:0 rbps=1048576",
                "io.max=254:16 wiops=max",
                "warning: linux.resources.blockIO.leafWeight is ignored: cgroup v2 has no such setting",
            ]
        );
        assert_eq!((scaled(10), scaled(500), scaled(1000)), (1, 4950, 10_000));
        for bad in [r#"{"weight": 9}"#, r#"{"weight": 1001}"#, r#"{"leafWeight": 1}"#] {
            let bad = format!(r#"{{"blockIO": {bad}}}"#);
            assert!(lines(&bad, Version::V1).is_err() && lines(&bad, Version::V2).is_err());
        }
    }

    #[test]
    fn what_was_read_and_written() {
        let v1 = v1_entries("8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\n");
        assert_eq!(v1.len(), 3);
        assert_eq!((v1[0].major, v1[0].op.as_str(), v1[0].value), (8, "Read", 4096));
        let v2 = v2_stats("254:16 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n");
        assert_eq!((v2.service_bytes.len(), v2.serviced.len()), (3, 3));
        assert_eq!((v2.service_bytes[1].minor, v2.service_bytes[1].value), (16, 6));
    }
}
