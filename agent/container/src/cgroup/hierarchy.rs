//! The hierarchies that are mounted, and this process's groups in them: proc(5), `/proc/self/mountinfo` and
//! `/proc/self/cgroup`.

use super::Version;

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// `cpu,cpuacct`, `name=systemd`; of version 2, the controllers that are not of version 1.
    pub(super) controllers: String,
    /// Where it is mounted.
    pub(super) mount: String,
    /// This process's group below that, `/` or `/a/b`.
    pub(super) own: String,
}

/// What limits and statistics are about. A mount's other options are no controllers.
const V1: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// Those of `mountinfo`'s text, the first mount of each. `available` reads the controllers of version 2 at its mount.
pub(super) fn parse(
    mountinfo: &str,
    cgroup: &str,
    available: impl Fn(&str) -> String,
) -> Vec<Hierarchy> {
    let mut all: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some(found) = mounted(line, cgroup) else { continue };
        let known = |other: &Hierarchy| {
            other.version == found.version && other.controllers == found.controllers
        };
        if !all.iter().any(known) {
            all.push(found);
        }
    }
    for unified in all.iter_mut().filter(|one| one.version == Version::V2) {
        unified.controllers =
            available(&unified.mount).split_whitespace().collect::<Vec<_>>().join(",");
    }
    all
}

/// `36 35 98:0 /root /mount options optional... - type source super-options`
fn mounted(line: &str, cgroup: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, mount) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let (version, controllers) = match kind {
        "cgroup2" => (Version::V2, String::new()),
        "cgroup" => {
            let names: Vec<_> = options
                .split(',')
                .filter(|name| V1.contains(name) || name.starts_with("name="))
                .collect();
            (Version::V1, names.join(","))
        }
        _ => return None,
    };
    let own = own(cgroup, &controllers)?;
    // A mount may show a part of the hierarchy only, and this process may be outside of it.
    let own = match own.strip_prefix(root.trim_end_matches('/')) {
        Some(rest) if rest.starts_with('/') => rest.to_owned(),
        _ => "/".to_owned(),
    };
    Some(Hierarchy { version, controllers, mount, own })
}

/// This process's group in the hierarchy with these controllers: `4:memory:/a/b`, `0::/a`.
fn own(cgroup: &str, controllers: &str) -> Option<String> {
    cgroup.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let same = if controllers.is_empty() {
            names.is_empty()
        } else {
            controllers.split(',').all(|name| names.split(',').any(|other| other == name))
        };
        same.then(|| path.to_owned())
    })
}

/// Spaces and the like are octal there.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
35 31 0:32 / /mnt/again rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/with\\040space rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_host_with_both_versions() {
        let cgroup = "5:cpu,cpuacct:/a\n4:memory:/process/1\n2:name=systemd:/\n0::/b\n";
        let all = parse(HYBRID, cgroup, |mount| {
            assert_eq!(mount, "/sys/fs/cgroup/unified");
            "hugetlb rdma\n".to_owned()
        });
        let lines: Vec<_> = all
            .iter()
            .map(|one| format!("{} {} {}", one.controllers, one.mount, one.own))
            .collect();
        assert_eq!(
            lines,
            [
                "cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct /a",
                "memory /sys/fs/cgroup/memory /process/1",
                "name=systemd /sys/fs/cgroup/with space /",
                "hugetlb,rdma /sys/fs/cgroup/unified /b",
            ]
        );
        assert_eq!(all[3].version, Version::V2);
    }

    #[test]
    fn a_mount_of_a_part() {
        let line = "1 2 0:3 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let inside = parse(line, "0::/docker/abc/x\n", |_| "memory".to_owned());
        assert_eq!(inside[0].own, "/x");
        let outside = parse(line, "0::/elsewhere\n", |_| "memory".to_owned());
        assert_eq!(outside[0].own, "/");
    }
}
