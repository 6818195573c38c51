//! The hugetlb controller.

use std::collections::BTreeMap;

use bulkhead_protocol::stats;

use super::{
    Version,
    directory::{Directory, row},
    setting::{Missing, Setting, Settings},
};
use crate::{error::Error, spec::HugepageLimit};

/// The kernel's huge pages, one directory for each size: `hugepages-2048kB`.
const SIZES: &str = "/sys/kernel/mm/hugepages";

pub(super) fn settings(
    limits: &[HugepageLimit],
    version: Version,
    all: &mut Settings,
) -> Result<(), Error> {
    let file = if version == Version::V1 { "limit_in_bytes" } else { "max" };
    for limit in limits {
        let size = &limit.page_size;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::invalid(
                "linux.resources.hugepageLimits.pageSize",
                size,
                "a size such as 2MB is wanted",
            ));
        }
        let mut set = |infix: &str, missing| {
            all.list.push(Setting {
                controller: "hugetlb",
                file: format!("hugetlb.{size}.{infix}{file}").into(),
                value: limit.limit.to_string(),
                missing,
            });
        };
        set("", Missing::Refuse);
        // Pages that are reserved and not yet used; since Linux 5.7.
        set("rsvd.", Missing::Holds);
    }
    Ok(())
}

pub(super) fn stats(dir: &Directory) -> BTreeMap<String, stats::Hugetlb> {
    let sizes = std::fs::read_dir(SIZES).into_iter().flatten().flatten();
    let names = sizes.filter_map(|entry| name(entry.file_name().to_str()?));
    names
        .map(|size| {
            let number = |file: &str| dir.number(&format!("hugetlb.{size}.{file}")).unwrap_or(0);
            let used = if dir.version == Version::V1 {
                stats::Hugetlb {
                    usage: number("usage_in_bytes"),
                    max: number("max_usage_in_bytes"),
                    failcnt: number("failcnt"),
                }
            } else {
                let events = dir.table(&format!("hugetlb.{size}.events"));
                stats::Hugetlb { usage: number("current"), max: 0, failcnt: row(&events, "max") }
            };
            (size, used)
        })
        .collect()
}

/// The controller's name of a size: `hugepages-2048kB` is `2MB`.
fn name(directory: &str) -> Option<String> {
    let kib: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::setting::lines;

    #[test]
    fn sizes_and_versions() {
        let limits = r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#;
        assert_eq!(
            lines(limits, Version::V2).unwrap(),
            ["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304"]
        );
        assert_eq!(
            lines(limits, Version::V1).unwrap(),
            ["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.rsvd.limit_in_bytes=4194304"]
        );
        let bad = r#"{"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}"#;
        assert!(lines(bad, Version::V2).unwrap_err().contains("pageSize"));
        assert_eq!(name("hugepages-2048kB").unwrap(), "2MB");
        assert_eq!(name("hugepages-1048576kB").unwrap(), "1GB");
        assert_eq!(name("hugepages-64kB").unwrap(), "64KB");
    }
}
