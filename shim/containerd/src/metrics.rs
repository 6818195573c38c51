//! What a container uses, in containerd's types: those of cgroup v1 or v2, as the kernel that counted has them. For a container in a
//! microVM that is the guest's kernel.

use std::collections::BTreeMap;

use bulkhead_protocol::stats::{BlkioEntry, MemoryUsage, Stats};
use containerd_shim_protos::{
    cgroups::metrics as v1,
    cgroups_v2::metrics as v2,
    protobuf::{Message, MessageField, well_known_types::any::Any},
};

use crate::refusal::{Refusal, cannot};

/// The names by which containerd's clients know the types.
const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";
const MICROSECOND: u64 = 1000;

/// The message for containerd.
///
/// # Errors
/// A message that cannot be written.
pub(crate) fn any(stats: &Stats) -> Result<Any, Refusal> {
    // Only the second version's memory.stat has it.
    let (name, value) = if stats.memory.raw.contains_key("anon") {
        (V2, unified(stats).write_to_bytes())
    } else {
        (V1, split(stats).write_to_bytes())
    };
    let value = value.map_err(cannot("write the metrics"))?;
    Ok(Any { type_url: name.into(), value, ..Any::default() })
}

/// A message whose fields are the numbers of the same names; what the kernel does not count is 0.
macro_rules! named {
    ($message:ty, $of:expr; $($field:ident),* ; $($set:ident = $value:expr),* $(,)?) => {{
        let of = number_of($of);
        MessageField::some({
            let mut message = <$message>::default();
            $(message.$field = of(stringify!($field));)*
            $(message.$set = $value;)*
            message
        })
    }};
}

fn number_of(raw: &BTreeMap<String, u64>) -> impl Fn(&str) -> u64 {
    |name| raw.get(name).copied().unwrap_or(0)
}

fn unified(stats: &Stats) -> v2::Metrics {
    let Stats { cpu, memory, pids, blkio, hugetlb, .. } = stats;
    let mut disks: BTreeMap<(u64, u64), v2::IOEntry> = BTreeMap::new();
    for (entries, bytes) in [(&blkio.service_bytes, true), (&blkio.serviced, false)] {
        for entry in entries {
            let at = (entry.major, entry.minor);
            let disk = disks.entry(at).or_insert_with(|| v2::IOEntry {
                major: entry.major,
                minor: entry.minor,
                ..v2::IOEntry::default()
            });
            match (entry.op.to_ascii_lowercase().as_str(), bytes) {
                ("read", true) => disk.rbytes = entry.value,
                ("write", true) => disk.wbytes = entry.value,
                ("read", false) => disk.rios = entry.value,
                ("write", false) => disk.wios = entry.value,
                _ => {}
            }
        }
    }
    let hugetlb = hugetlb.iter().map(|(size, pages)| v2::HugeTlbStat {
        current: pages.usage,
        max: pages.max,
        pagesize: size.clone(),
        ..v2::HugeTlbStat::default()
    });
    v2::Metrics {
        pids: MessageField::some(v2::PidsStat {
            current: pids.current,
            limit: pids.limit,
            ..v2::PidsStat::default()
        }),
        cpu: MessageField::some(v2::CPUStat {
            usage_usec: cpu.usage.total / MICROSECOND,
            user_usec: cpu.usage.user / MICROSECOND,
            system_usec: cpu.usage.kernel / MICROSECOND,
            nr_periods: cpu.throttling.periods,
            nr_throttled: cpu.throttling.throttled_periods,
            throttled_usec: cpu.throttling.throttled_time / MICROSECOND,
            ..v2::CPUStat::default()
        }),
        memory: named!(v2::MemoryStat, &memory.raw;
            anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp,
            inactive_anon, active_anon, inactive_file, active_file, unevictable, slab_reclaimable,
            slab_unreclaimable, pgfault, pgmajfault, workingset_refault, workingset_activate,
            workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate, pgdeactivate, pglazyfree,
            pglazyfreed, thp_fault_alloc, thp_collapse_alloc;
            usage = memory.usage.usage,
            usage_limit = memory.usage.limit,
            max_usage = memory.usage.max,
            // Of both together there is no count.
            swap_usage = memory.swap.usage.saturating_sub(memory.usage.usage),
            swap_limit = memory.swap.limit.saturating_sub(memory.usage.limit),
        ),
        io: MessageField::some(v2::IOStat {
            usage: disks.into_values().collect(),
            ..v2::IOStat::default()
        }),
        hugetlb: hugetlb.collect(),
        ..v2::Metrics::default()
    }
}

fn split(stats: &Stats) -> v1::Metrics {
    let Stats { cpu, memory, pids, blkio, hugetlb, .. } = stats;
    let entries = |entries: &[BlkioEntry]| {
        let entry = |entry: &BlkioEntry| v1::BlkIOEntry {
            op: entry.op.clone(),
            major: entry.major,
            minor: entry.minor,
            value: entry.value,
            ..v1::BlkIOEntry::default()
        };
        entries.iter().map(entry).collect()
    };
    let hugetlb = hugetlb.iter().map(|(size, pages)| v1::HugetlbStat {
        usage: pages.usage,
        max: pages.max,
        failcnt: pages.failcnt,
        pagesize: size.clone(),
        ..v1::HugetlbStat::default()
    });
    let old = number_of(&memory.raw);
    v1::Metrics {
        hugetlb: hugetlb.collect(),
        pids: MessageField::some(v1::PidsStat {
            current: pids.current,
            limit: pids.limit,
            ..v1::PidsStat::default()
        }),
        cpu: MessageField::some(v1::CPUStat {
            usage: MessageField::some(v1::CPUUsage {
                total: cpu.usage.total,
                kernel: cpu.usage.kernel,
                user: cpu.usage.user,
                per_cpu: cpu.usage.percpu.clone(),
                ..v1::CPUUsage::default()
            }),
            throttling: MessageField::some(v1::Throttle {
                periods: cpu.throttling.periods,
                throttled_periods: cpu.throttling.throttled_periods,
                throttled_time: cpu.throttling.throttled_time,
                ..v1::Throttle::default()
            }),
            ..v1::CPUStat::default()
        }),
        memory: named!(v1::MemoryStat, &memory.raw;
            cache, rss, rss_huge, mapped_file, dirty, writeback, inactive_anon, active_anon, inactive_file,
            active_file, unevictable, hierarchical_memory_limit, total_cache, total_rss, total_rss_huge,
            total_mapped_file, total_dirty, total_writeback, total_inactive_anon, total_active_anon,
            total_inactive_file, total_active_file, total_unevictable;
            pg_fault = old("pgfault"),
            pg_maj_fault = old("pgmajfault"),
            usage = entry(memory.usage),
            swap = entry(memory.swap),
            kernel = entry(memory.kernel),
            kernel_tcp = entry(memory.kernel_tcp),
        ),
        blkio: MessageField::some(v1::BlkIOStat {
            io_service_bytes_recursive: entries(&blkio.service_bytes),
            io_serviced_recursive: entries(&blkio.serviced),
            ..v1::BlkIOStat::default()
        }),
        ..v1::Metrics::default()
    }
}

fn entry(usage: MemoryUsage) -> MessageField<v1::MemoryEntry> {
    MessageField::some(v1::MemoryEntry {
        limit: usage.limit,
        usage: usage.usage,
        max: usage.max,
        failcnt: usage.failcnt,
        ..v1::MemoryEntry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(raw: &[(&str, u64)]) -> Stats {
        let mut stats = Stats::default();
        stats.cpu.usage.total = 5_000_000;
        stats.memory.usage.usage = 77;
        stats.memory.raw = raw.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let entry = |op: &str, value| BlkioEntry { major: 8, minor: 1, op: op.into(), value };
        stats.blkio.service_bytes = vec![entry("Read", 3), entry("Write", 4)];
        stats.blkio.serviced = vec![entry("read", 1)];
        stats
    }

    #[test]
    fn the_second_version_counts_microseconds_and_disks() {
        let any = any(&stats(&[("anon", 9), ("inactive_file", 2)])).unwrap();
        assert_eq!(any.type_url, V2);
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.memory.usage), (5000, 77));
        assert_eq!((metrics.memory.anon, metrics.memory.inactive_file), (9, 2));
        let disk = &metrics.io.usage[0];
        assert_eq!((disk.rbytes, disk.wbytes, disk.rios, metrics.io.usage.len()), (3, 4, 1, 1));
    }

    #[test]
    fn the_first_version_has_its_own_names() {
        let any = any(&stats(&[("total_inactive_file", 2), ("pgfault", 6)])).unwrap();
        assert_eq!(any.type_url, V1);
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage.total, metrics.memory.usage.usage), (5_000_000, 77));
        assert_eq!((metrics.memory.total_inactive_file, metrics.memory.pg_fault), (2, 6));
        assert_eq!(metrics.blkio.io_service_bytes_recursive.len(), 2);
    }
}
