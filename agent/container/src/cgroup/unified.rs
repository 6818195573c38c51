//! `linux.resources.unified`: files of cgroup v2 as they are.

use std::collections::BTreeMap;

use super::{
    Version,
    setting::{Missing, Setting, Settings},
};
use crate::error::Error;

const CONTROLLERS: [&str; 8] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];

pub(super) fn settings(
    values: &BTreeMap<String, String>,
    version: impl Fn(&str) -> Version,
    all: &mut Settings,
) -> Result<(), Error> {
    for (file, value) in values {
        let refuse = |why| Err(Error::invalid("linux.resources.unified", file, why));
        let Some((prefix, _)) = file.split_once('.').filter(|_| !file.contains('/')) else {
            return refuse("a file of cgroup v2, such as memory.high, is wanted");
        };
        let controller = match CONTROLLERS.into_iter().find(|name| *name == prefix) {
            Some(controller) => controller,
            None if prefix == "cgroup" => "",
            None => return refuse("cgroup v2 has no controller of this name"),
        };
        if version(controller) == Version::V1 {
            return refuse("it is for cgroup v2, and this host has the controller in cgroup v1");
        }
        let file = file.clone().into();
        all.list.push(Setting { controller, file, value: value.clone(), missing: Missing::Refuse });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::setting::lines;

    #[test]
    fn unified_names_files_only() {
        let of =
            |file: &str, version| lines(&format!(r#"{{"unified": {{"{file}": "1"}}}}"#), version);
        assert_eq!(of("memory.high", Version::V2).unwrap(), ["memory.high=1"]);
        assert_eq!(of("cgroup.max.depth", Version::V2).unwrap(), ["cgroup.max.depth=1"]);
        for bad in ["../memory.max", "memory", ".hidden", "a/b.c", "foo.max"] {
            assert!(of(bad, Version::V2).is_err(), "{bad}");
        }
        assert!(of("memory.high", Version::V1).unwrap_err().contains("memory.high"));
    }
}
