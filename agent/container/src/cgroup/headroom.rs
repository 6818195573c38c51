//! How much memory this process's group, and those above it, still let it take.

use super::{Cgroups, Version, directory};

/// The limit of version 1 that is none: `i64::MAX`, rounded to pages. Any that large is none.
const NO_LIMIT: u64 = 1 << 60;

/// A group with a memory limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headroom {
    /// Its directory.
    pub path: String,
    /// What it and the groups below it may take, in bytes.
    pub limit: u64,
    /// What of that is neither taken nor taken by file pages that nobody uses any more, in bytes.
    pub left: u64,
}

impl Cgroups {
    /// The group with the least memory left, of this process's and those above it that are mounted; `None` when none has a limit.
    #[must_use]
    pub fn memory_headroom(&self) -> Option<Headroom> {
        let has_memory = |names: &str| names.split(',').any(|name| name == "memory");
        let hierarchy = self.hierarchies().iter().find(|one| has_memory(&one.controllers))?;
        let own = std::path::Path::new(&hierarchy.own);
        let groups = own.ancestors().filter_map(|group| {
            let group = group.to_str()?.trim_end_matches('/');
            of(hierarchy.version, format!("{}{group}", hierarchy.mount))
        });
        groups.min_by_key(|group| group.left)
    }
}

/// That of one group; `None` when it has no limit.
fn of(version: Version, path: String) -> Option<Headroom> {
    let (limit, used, idle) = match version {
        Version::V1 => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        Version::V2 => ("memory.max", "memory.current", "inactive_file"),
    };
    let text = |name: &str| std::fs::read_to_string(format!("{path}/{name}")).ok();
    let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
    // `max` is no number.
    let limit = number(limit).filter(|limit| *limit < NO_LIMIT)?;
    let table = directory::table(&text("memory.stat").unwrap_or_default());
    let used = number(used)?.saturating_sub(directory::row(&table, idle));
    Some(Headroom { left: limit.saturating_sub(used), limit, path })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::cgroup::hierarchy::Hierarchy;

    fn group(mount: &Path, name: &str, files: &[(&str, &str)]) {
        let dir = mount.join(name);
        fs::create_dir_all(&dir).unwrap();
        for (file, text) in files {
            fs::write(dir.join(file), text).unwrap();
        }
    }

    fn cgroups(version: Version, mount: &Path, own: &str) -> Cgroups {
        let hierarchy = Hierarchy {
            version,
            controllers: "cpu,memory".into(),
            mount: mount.to_str().unwrap().into(),
            own: own.into(),
        };
        Cgroups::of(vec![hierarchy])
    }

    #[test]
    fn the_tightest_of_the_groups_above_counts() {
        let mount = tempfile::tempdir().unwrap();
        let mount = mount.path();
        group(mount, "a", &[("memory.max", "1000000\n"), ("memory.current", "900000\n")]);
        let stat = "anon 5\nfile 300000\ninactive_file 250000\n";
        group(mount, "a", &[("memory.stat", stat)]);
        group(mount, "a/b", &[("memory.max", "max\n"), ("memory.current", "5\n")]);
        group(mount, "a/b/c", &[("memory.max", "800000\n"), ("memory.current", "100000\n")]);
        let headroom = |own| cgroups(Version::V2, mount, own).memory_headroom();
        let path = mount.join("a").to_str().unwrap().to_owned();
        let above = Headroom { path, limit: 1_000_000, left: 350_000 };
        assert_eq!(headroom("/a/b/c"), Some(above));
        fs::write(mount.join("a/b/c/memory.current"), "900000").unwrap();
        assert_eq!(headroom("/a/b/c").unwrap().left, 0);
        assert_eq!(headroom("/"), None);
        assert_eq!(headroom("/gone"), None);
    }

    #[test]
    fn the_first_versions_files_have_other_names() {
        let mount = tempfile::tempdir().unwrap();
        let mount = mount.path();
        let none =
            [("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "7")];
        group(mount, "", &none);
        assert_eq!(cgroups(Version::V1, mount, "/").memory_headroom(), None);
        let some = [("memory.limit_in_bytes", "5000"), ("memory.usage_in_bytes", "4000")];
        group(mount, "pod", &some);
        group(mount, "pod", &[("memory.stat", "inactive_file 1\ntotal_inactive_file 500\n")]);
        assert_eq!(cgroups(Version::V1, mount, "/pod").memory_headroom().unwrap().left, 1500);
    }
}
