//! Looks around, and touches nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use bulkhead_scout::{
    Cgroups, Clocks, Devices, Hints, Kernel, Keys, Mounts, Processes, Processors, REPORT_VERSION,
    Report, Symbols,
};
use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    time::{ClockId, clock_gettime},
};

use crate::{
    files::{line, mounts, names, text},
    tries,
};

/// The most entries of a list in the report.
const MOST: usize = 64;
/// The most processes, devices and mounts that are looked at.
const MANY: usize = 4096;

/// Everything but the attempts.
pub(crate) fn report(hints: &Hints) -> Report {
    Report {
        version: REPORT_VERSION,
        kernel: kernel(),
        namespaces: namespaces(),
        processes: processes(&hints.nonce),
        mounts: mounted(&hints.paths),
        devices: devices(),
        keys: keys(&hints.nonce),
        cgroups: cgroups(),
        clocks: Clocks { realtime: clock(ClockId::Realtime), boottime: clock(ClockId::Boottime) },
        processors: processors(),
        writable: writable(),
        attempts: BTreeMap::new(),
    }
}

fn kernel() -> Kernel {
    let uname = rustix::system::uname();
    Kernel {
        release: uname.release().to_string_lossy().into_owned(),
        version: uname.version().to_string_lossy().into_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        command_line: text("/proc/cmdline").map(|text| text.len() as u64),
        symbols: symbols(&text("/proc/kallsyms").unwrap_or_default()),
        modules: text("/proc/modules").map(|text| count(text.lines())),
        log: tries::log(),
    }
}

fn symbols(text: &str) -> Symbols {
    // What the kernel hides is zero; so are the addresses of some variables of a processor.
    let zero = |line: &str| line.split(' ').next().is_none_or(|at| at.bytes().all(|b| b == b'0'));
    match (text.is_empty(), text.lines().all(zero)) {
        (true, _) => Symbols::None,
        (false, true) => Symbols::Names,
        (false, false) => Symbols::Addresses,
    }
}

fn namespaces() -> BTreeMap<String, u64> {
    let number = |name: String| {
        let inode = fs::metadata(format!("/proc/self/ns/{name}")).ok()?.ino();
        Some((name, inode))
    };
    names("/proc/self/ns", MOST).into_iter().filter_map(number).collect()
}

fn processes(nonce: &str) -> Processes {
    let pids: Vec<u32> = names("/proc", MANY).iter().filter_map(|name| name.parse().ok()).collect();
    let name = |pid: &u32| line(format!("/proc/{pid}/comm"));
    let is_canary =
        |pid: &u32| text(format!("/proc/{pid}/cmdline")).is_some_and(|line| line.contains(nonce));
    Processes {
        visible: count(pids.iter()),
        names: pids.iter().filter_map(name).take(MOST).collect(),
        canary: pids.iter().copied().find(|pid| !nonce.is_empty() && is_canary(pid)),
    }
}

fn mounted(paths: &[String]) -> Mounts {
    let all = mounts();
    let text = text("/proc/self/mountinfo").unwrap_or_default();
    let kinds: BTreeSet<String> = all.iter().map(|mount| mount.kind.clone()).collect();
    Mounts {
        count: count(all.iter()),
        filesystems: kinds.into_iter().take(MOST).collect(),
        host_paths: paths.iter().filter(|path| text.contains(path.as_str())).cloned().collect(),
    }
}

fn devices() -> Devices {
    let mut nodes = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        for name in names(&directory, MANY) {
            let path = directory.join(name);
            let Ok(kind) = path.symlink_metadata().map(|data| data.file_type()) else { continue };
            if kind.is_dir() && directories.len() < MOST {
                directories.push(path);
            } else if (kind.is_char_device() || kind.is_block_device()) && nodes.len() < MOST {
                nodes.push(path.to_string_lossy().into_owned());
            }
        }
    }
    nodes.sort();
    Devices {
        nodes,
        blocks: names("/sys/class/block", MOST),
        pci: count(names("/sys/bus/pci/devices", MANY).iter()),
    }
}

fn keys(nonce: &str) -> Keys {
    Keys {
        listed: text("/proc/keys").map(|text| count(text.lines())),
        canary: !nonce.is_empty() && tries::find_key(nonce).is_ok(),
    }
}

fn cgroups() -> Cgroups {
    let own = text("/proc/self/cgroup").unwrap_or_default();
    let own: BTreeSet<String> = own
        .lines()
        .filter_map(|line| Some(line.splitn(3, ':').nth(2)?.to_owned()))
        .take(MOST)
        .collect();
    let mut seen = 0;
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            if seen < MANY && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                seen += 1;
                directories.push(entry.path());
            }
        }
    }
    Cgroups { own: own.into_iter().collect(), directories: seen as u64 }
}

fn clock(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec))
}

fn processors() -> Processors {
    let info = text("/proc/cpuinfo").unwrap_or_default();
    let value = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
    let memory = text("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let usable = rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count());
    Processors {
        listed: count(info.lines().filter(|line| line.starts_with("processor"))),
        usable: u64::from(usable),
        model: info.lines().find(|line| line.starts_with("model name")).and_then(value),
        memory_kib: total.and_then(|total| total.split_whitespace().next()?.parse().ok()),
    }
}

/// What would let a program change the kernel that it runs on.
const SENSITIVE: [&str; 15] = [
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/panic",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/fs/file-max",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/irq/default_smp_affinity",
    "/proc/acpi/wakeup",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/power/state",
];

/// File systems of the kernel or of the container itself: a mount of another kind that is not the root is a piece of the host.
const OWN_KINDS: [&str; 9] =
    ["proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs"];

fn writable() -> Vec<String> {
    let mounts = mounts();
    let pieces = mounts
        .iter()
        .filter(|mount| mount.point != Path::new("/") && !OWN_KINDS.contains(&mount.kind.as_str()));
    // A tmpfs of which only a part is mounted, or a control group, is somebody else's, too.
    let groups = mounts.iter().filter(|mount| mount.kind.starts_with("cgroup"));
    let places: BTreeSet<&Path> = SENSITIVE
        .iter()
        .map(Path::new)
        .chain(pieces.chain(groups).map(|mount| mount.point.as_path()))
        .take(MANY)
        .collect();
    // Asks only; unlike access(2) it is about the rights that an open would have.
    let open = |path: &&Path| accessat(CWD, *path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    let found = places.into_iter().filter(open).take(MOST);
    found.map(|path| path.to_string_lossy().into_owned()).collect()
}

fn count(items: impl Iterator) -> u64 {
    items.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_addresses_are_told_from_shown_ones() {
        assert_eq!(symbols(""), Symbols::None);
        assert_eq!(symbols("0000000000000000 T a\n0000000000000000 t b\n"), Symbols::Names);
        assert_eq!(symbols("0000000000000000 A a\nffffffff81000000 T b\n"), Symbols::Addresses);
    }

    #[test]
    fn this_process_is_seen_with_its_kernel() {
        let nonce = std::env::args().next().unwrap();
        let report = report(&Hints { nonce, paths: vec!["/proc".into()], ..Hints::default() });
        assert!(!report.kernel.release.is_empty() && report.kernel.boot_id.is_some());
        assert!(report.processes.visible >= 1 && report.processes.canary.is_some());
        assert_eq!(report.mounts.host_paths, ["/proc"]);
        assert!(report.namespaces.contains_key("net") && report.processors.listed >= 1);
        assert!(report.devices.nodes.iter().any(|node| node == "/dev/null"));
        assert!(report.clocks.boottime > 0 && report.clocks.realtime > report.clocks.boottime);
    }
}
