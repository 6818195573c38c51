//! The cpuset controller.

use bulkhead_protocol::stats;
use rustix::io::Errno;

use super::{Version, directory::Directory, setting::Settings};
use crate::spec::Cpu;

pub(super) fn settings(cpu: &Cpu, all: &mut Settings) {
    for (file, list) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            all.limit(file, list);
        }
    }
}

/// In version 1, a new group has no processors, and no process can enter it: it gets those of the group above it. `fresh`:
/// it has just been made.
pub(super) fn inherit(dir: &Directory, above: &Directory, fresh: bool) -> Result<(), Errno> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fresh || dir.read(file)?.trim().is_empty() {
            dir.write(file, above.read(file)?.trim())?;
        }
    }
    Ok(())
}

pub(super) fn stats(dir: &Directory) -> stats::CpuSet {
    let list = |v1: &str, v2: &str| {
        let file = if dir.version == Version::V1 { v1 } else { v2 };
        parse(&dir.read(file).unwrap_or_default())
    };
    stats::CpuSet {
        cpus: list("cpuset.cpus", "cpuset.cpus.effective"),
        mems: list("cpuset.mems", "cpuset.mems.effective"),
    }
}

/// `0-3,7`
fn parse(text: &str) -> Vec<u16> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u16>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse("0-2,7\n"), [0, 1, 2, 7]);
        assert!(parse("\n").is_empty());
    }
}
