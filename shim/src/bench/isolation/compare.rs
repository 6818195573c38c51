//! Puts side by side what was seen: pure, from the scouts' reports and what the host is.

use std::collections::BTreeMap;

use bulkhead_scout::{ATTEMPTS, Attempt, Outcome, Report as Seen, Scope, Symbols};

use super::trace::Calls;
use crate::bench::report::{Finding, Group, Plot, Quantity, Unit};

/// The longest text in a cell: much of it comes from a container.
const CELL: usize = 64;

/// What one subject showed.
#[derive(Debug)]
pub(super) struct Column {
    /// The subject's key.
    pub(super) key: String,
    /// What its scout saw and reached.
    pub(super) seen: Seen,
    /// What its processes asked of the host, or why that was not counted.
    pub(super) calls: Result<Calls, String>,
}

/// Where something that was got hold of belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// To the host.
    Host,
    /// To a kernel that is not the host's.
    Guest,
    /// To the container.
    Container,
}

/// A cell, and whether it is bad news.
type Cell = (String, bool);

/// What a row asks: the scout's report, the host's own, and whether they are of one kernel.
type Ask = fn(&Seen, &Seen, bool) -> Cell;

const ROWS: [(&str, &str, Ask); 16] = [
    ("kernel", "kernel", kernel),
    ("symbols", "kernel symbols", symbols),
    ("log", "kernel log", |seen, _, same| readable(seen.kernel.log, same)),
    ("command-line", "kernel command line", |seen, _, same| {
        readable(seen.kernel.command_line, same)
    }),
    ("modules", "kernel modules", |seen, _, same| counted(seen.kernel.modules, same)),
    ("namespaces", "namespaces of the host", namespaces),
    ("processes", "processes", processes),
    ("mounts", "mounts", mounts),
    ("nodes", "device nodes", |seen, _, _| (some(&seen.devices.nodes), false)),
    ("blocks", "block devices in /sys", |seen, _, same| listed(&seen.devices.blocks, same)),
    ("pci", "PCI devices", |seen, _, same| {
        (seen.devices.pci.to_string(), same && seen.devices.pci > 0)
    }),
    ("keys", "keys", keys),
    ("cgroups", "control groups", cgroups),
    ("clocks", "uptime", uptime),
    ("cpus", "CPUs and memory", processors),
    ("writable", "writable settings and host paths", |seen, _, same| listed(&seen.writable, same)),
];

/// All groups of the report. `host` is what a scout outside of any container saw.
pub(super) fn groups(columns: &[Column], host: &Seen) -> Vec<Group> {
    let mut groups = vec![summary(columns, host), visible(columns, host), attempts(columns, host)];
    groups.extend(calls(columns));
    groups
}

/// The subject's kernel is the host's.
pub(super) fn same_kernel(seen: &Seen, host: &Seen) -> bool {
    match (&seen.kernel.boot_id, &host.kernel.boot_id) {
        (Some(one), Some(other)) => one == other,
        // Somebody hides it; then these decide.
        _ => {
            let name = |seen: &Seen| (seen.kernel.release.clone(), seen.kernel.version.clone());
            name(seen) == name(host)
        }
    }
}

fn visible(columns: &[Column], host: &Seen) -> Group {
    let about = "Marked is what is the host's. A canary is something that the bench has put on the host to be looked for.";
    let mut group = Group::new("seen", "What it can see", about);
    for (key, name, ask) in ROWS {
        group.findings.push(finding(key, name, columns, |column| {
            ask(&column.seen, host, same_kernel(&column.seen, host))
        }));
    }
    group
}

fn attempts(columns: &[Column], host: &Seen) -> Group {
    let about = "HOST: it got through to the host, or to code of the host's kernel that is behind the attempt. guest only: it got through to \
                 a kernel that is not the host's. own: to what only the container has. Every attempt stops short of doing anything.";
    let mut group = Group::new("attempts", "What it can reach", about);
    for attempt in ATTEMPTS {
        group.findings.push(finding(attempt.name, attempt.what, columns, |column| {
            outcome(attempt, &column.seen, host)
        }));
    }
    group
}

fn outcome(attempt: &Attempt, seen: &Seen, host: &Seen) -> Cell {
    match seen.attempts.get(attempt.name) {
        None => ("not tried".into(), false),
        Some(Outcome::Absent(error)) => (format!("not there ({})", cut(error)), false),
        Some(Outcome::Denied(error)) => (format!("refused ({})", cut(error)), false),
        Some(Outcome::Allowed) => match reach(attempt, seen, host) {
            Reach::Host => ("HOST".into(), true),
            Reach::Guest => ("guest only".into(), false),
            Reach::Container => ("own".into(), false),
        },
    }
}

/// Where an attempt that got through has got to.
fn reach(attempt: &Attempt, seen: &Seen, host: &Seen) -> Reach {
    let same = same_kernel(seen, host);
    match attempt.scope {
        Scope::Canary => Reach::Host,
        Scope::Kernel if same => Reach::Host,
        Scope::Namespace(name) if same && shares(seen, host, name) => Reach::Host,
        Scope::Kernel => Reach::Guest,
        Scope::Namespace(_) | Scope::Container => Reach::Container,
    }
}

fn shares(seen: &Seen, host: &Seen, name: &str) -> bool {
    let numbers = (seen.namespaces.get(name), host.namespaces.get(name));
    matches!(numbers, (Some(one), Some(other)) if one == other)
}

const REACHED: Quantity =
    Quantity::lower("host", "attempts that got through to the host", Unit::Count);
const GUEST: Quantity =
    Quantity::lower("guest", "attempts that got through to a guest's kernel only", Unit::Count);
const REFUSED: Quantity =
    Quantity::higher("refused", "attempts that were refused or found nothing", Unit::Count);

fn summary(columns: &[Column], host: &Seen) -> Group {
    let about =
        format!("{} attempts, each known to harm nothing even where it succeeds", ATTEMPTS.len());
    let mut group = Group::new("summary", "Attempts", &about);
    for column in columns {
        let count = |wanted: fn(&Cell) -> bool| {
            let cells = ATTEMPTS.iter().map(|attempt| outcome(attempt, &column.seen, host));
            cells.filter(wanted).count()
        };
        #[allow(clippy::cast_precision_loss, reason = "there are some dozens")]
        let mut add = |what, number: usize| group.add(what, &column.key, number as f64);
        add(&REACHED, count(|(_, bad)| *bad));
        add(&GUEST, count(|(text, _)| text == "guest only"));
        add(&REFUSED, count(|(text, _)| text.starts_with("refused") || text.starts_with("not ")));
    }
    let measures = vec![REACHED.key.into(), GUEST.key.into()];
    group.plots.push(Plot::Bars { title: "Attempts that got through".into(), measures });
    group
}

const CALLS: Quantity =
    Quantity::lower("distinct", "distinct system calls on the host", Unit::Count);
const IOCTLS: Quantity =
    Quantity::lower("ioctls", "distinct ioctl requests on the host", Unit::Count);
const TOTAL: Quantity = Quantity::lower("total", "system calls on the host in all", Unit::Count);

/// Nothing where nothing was counted.
fn calls(columns: &[Column]) -> Option<Group> {
    let about = "made on the host while one small program ran (files, memory, a child, a thread, sockets): by the container's own processes, \
                 or, where another kernel served them, by those that serve that kernel";
    let mut group = Group::new("calls", "What the host's kernel was asked", about);
    for column in columns {
        let Ok(calls) = &column.calls else { continue };
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 calls are made")]
        let number = |count: usize| count as f64;
        group.add(&CALLS, &column.key, number(calls.distinct.len()));
        group.add(&IOCTLS, &column.key, number(calls.ioctls.len()));
        group.add(&TOTAL, &column.key, number(usize::try_from(calls.total).unwrap_or(usize::MAX)));
    }
    let measures = vec![CALLS.key.into(), IOCTLS.key.into()];
    group.plots.push(Plot::Bars { title: "Distinct calls on the host".into(), measures });
    (!group.measures.is_empty()).then_some(group)
}

fn finding(key: &str, name: &str, columns: &[Column], cell: impl Fn(&Column) -> Cell) -> Finding {
    let cells: Vec<(&String, Cell)> =
        columns.iter().map(|column| (&column.key, cell(column))).collect();
    let bad = cells.iter().filter(|(_, (_, bad))| *bad).map(|(key, _)| (*key).clone()).collect();
    let values: BTreeMap<String, String> =
        cells.into_iter().map(|(key, (text, _))| (key.clone(), text)).collect();
    Finding { key: key.into(), name: name.into(), values, bad }
}

fn kernel(seen: &Seen, _: &Seen, same: bool) -> Cell {
    let whose = if same { "the host's" } else { "its own" };
    (format!("{} ({whose})", cut(&seen.kernel.release)), same)
}

fn symbols(seen: &Seen, _: &Seen, same: bool) -> Cell {
    match seen.kernel.symbols {
        Symbols::None => ("none".into(), false),
        Symbols::Names => ("names".into(), false),
        Symbols::Addresses => ("names and addresses".into(), same),
    }
}

fn readable(bytes: Option<u64>, same: bool) -> Cell {
    match bytes {
        Some(bytes) if bytes > 0 => (format!("{bytes} bytes"), same),
        _ => ("none".into(), false),
    }
}

fn counted(count: Option<u64>, same: bool) -> Cell {
    match count {
        Some(count) if count > 0 => (count.to_string(), same),
        _ => ("none".into(), false),
    }
}

fn namespaces(seen: &Seen, host: &Seen, same: bool) -> Cell {
    if !same {
        return ("none".into(), false);
    }
    // Of a process's children: not yet anybody's.
    let names = seen.namespaces.keys().filter(|name| !name.ends_with("_for_children"));
    let shared: Vec<String> = names.filter(|name| shares(seen, host, name)).cloned().collect();
    (some(&shared), !shared.is_empty())
}

fn processes(seen: &Seen, _: &Seen, _: bool) -> Cell {
    let found = if seen.processes.canary.is_some() { "the canary among them" } else { "no canary" };
    (format!("{}, {found}", seen.processes.visible), seen.processes.canary.is_some())
}

fn mounts(seen: &Seen, _: &Seen, _: bool) -> Cell {
    let told = !seen.mounts.host_paths.is_empty();
    let paths = if told { ", host paths named" } else { "" };
    (format!("{}: {}{paths}", seen.mounts.count, some(&seen.mounts.filesystems)), told)
}

fn keys(seen: &Seen, _: &Seen, _: bool) -> Cell {
    let listed = seen.keys.listed.map_or("no list".into(), |count| format!("{count} listed"));
    let found = if seen.keys.canary { "the canary found" } else { "no canary" };
    (format!("{listed}, {found}"), seen.keys.canary)
}

/// A container that has no control group of its own in sight is told where it is on the host.
fn cgroups(seen: &Seen, _: &Seen, same: bool) -> Cell {
    let told = seen.cgroups.own.iter().any(|path| path != "/");
    let own = if told { cut(&seen.cgroups.own.join(" ")) } else { "its own root".into() };
    (format!("{own}, {} directories", seen.cgroups.directories), same && told)
}

fn uptime(seen: &Seen, host: &Seen, same: bool) -> Cell {
    let seconds = seen.clocks.boottime / 1_000_000_000;
    let shown = match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    };
    // A time namespace moves it.
    let near = seen.clocks.boottime.abs_diff(host.clocks.boottime) < 600_000_000_000;
    let whose = if same && near { "the host's" } else { "its own" };
    (format!("{shown} ({whose})"), same && near)
}

fn processors(seen: &Seen, host: &Seen, _: bool) -> Cell {
    let mib = |seen: &Seen| seen.processors.memory_kib.unwrap_or(0) >> 10;
    let all = seen.processors.listed == host.processors.listed && mib(seen) == mib(host);
    let whose = if all { " (the host's)" } else { "" };
    let usable = seen.processors.usable;
    let text = format!("{usable} of {}, {} MiB{whose}", seen.processors.listed, mib(seen));
    (text, all)
}

fn listed(names: &[String], same: bool) -> Cell {
    (some(names), same && !names.is_empty())
}

/// The first names of a list and how many more there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 3;
    if names.is_empty() {
        return "none".into();
    }
    let shown = cut(&names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(" "));
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn cut(text: &str) -> String {
    crate::text::cut(text, CELL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Seen {
        let mut host = Seen::default();
        host.kernel.release = "6.18".into();
        host.kernel.boot_id = Some("aaaa".into());
        host.namespaces = [("net", 1), ("mnt", 2), ("user", 3), ("pid_for_children", 4)]
            .map(|(name, number)| (name.to_owned(), number))
            .into();
        host.clocks.boottime = 7_300_000_000_000;
        host
    }

    /// One that runs on the host's kernel, with a network of its own.
    fn contained() -> Seen {
        let mut seen = host();
        seen.namespaces.insert("net".into(), 9);
        seen.namespaces.insert("mnt".into(), 8);
        seen
    }

    fn guest() -> Seen {
        let mut seen = host();
        seen.kernel.release = "6.1".into();
        seen.kernel.boot_id = Some("bbbb".into());
        seen.clocks.boottime = 5_000_000_000;
        seen
    }

    fn named(name: &str) -> &'static Attempt {
        ATTEMPTS.iter().find(|attempt| attempt.name == name).unwrap()
    }

    fn after(mut seen: Seen, name: &str, outcome: Outcome) -> Cell {
        seen.attempts.insert(name.into(), outcome);
        super::outcome(named(name), &seen, &host())
    }

    #[test]
    fn what_got_through_is_told_by_whose_it_is() {
        let own = ("own".to_owned(), false);
        let through = |seen, name| after(seen, name, Outcome::Allowed);
        assert_eq!(through(contained(), "bpf"), ("HOST".into(), true));
        assert_eq!(through(guest(), "bpf"), ("guest only".into(), false));
        assert_eq!(through(contained(), "raw-socket"), own);
        assert_eq!(through(host(), "raw-socket"), ("HOST".into(), true));
        // Another kernel gives the same numbers to other namespaces.
        assert_eq!(through(guest(), "raw-socket"), own);
        assert_eq!(through(contained(), "ptrace-neighbour"), own);
        // What only the host has is the host's, whatever the kernel says of itself.
        assert_eq!(through(guest(), "host-file"), ("HOST".into(), true));
        let refused = after(contained(), "kexec", Outcome::Denied("EPERM".into()));
        assert_eq!(refused, ("refused (EPERM)".into(), false));
        let absent = after(guest(), "kexec", Outcome::Absent("ENOSYS".into()));
        assert_eq!(absent, ("not there (ENOSYS)".into(), false));
    }

    #[test]
    fn a_kernel_that_hides_its_boot_is_known_by_its_name() {
        let mut hidden = contained();
        hidden.kernel.boot_id = None;
        assert!(same_kernel(&hidden, &host()));
        hidden.kernel.release = "4.4.0".into();
        assert!(!same_kernel(&hidden, &host()));
    }

    #[test]
    fn rows_mark_what_is_the_hosts() {
        let row = |key: &str, seen: &Seen| {
            let (_, _, ask) = ROWS.iter().find(|row| row.0 == key).unwrap();
            ask(seen, &host(), same_kernel(seen, &host()))
        };
        assert_eq!(row("kernel", &guest()), ("6.1 (its own)".into(), false));
        assert_eq!(row("kernel", &contained()), ("6.18 (the host's)".into(), true));
        assert_eq!(row("namespaces", &contained()), ("user".into(), true));
        assert_eq!(row("namespaces", &guest()), ("none".into(), false));
        assert_eq!(row("clocks", &guest()), ("5 s (its own)".into(), false));
        assert_eq!(row("clocks", &contained()), ("2 h (the host's)".into(), true));
        let mut seen = contained();
        seen.writable = (0..6).map(|n| format!("/proc/{n}")).collect();
        let many = "/proc/0 /proc/1 /proc/2 and 3 more";
        assert_eq!(row("writable", &seen), (many.into(), true));
        seen.keys.canary = true;
        assert_eq!(row("keys", &seen), ("no list, the canary found".into(), true));
        seen.kernel.release = "x".repeat(9999);
        assert!(row("kernel", &seen).0.chars().count() < 200);
    }

    #[test]
    fn the_report_counts_and_keeps_all_rows() {
        let mut seen = contained();
        seen.attempts.insert("bpf".into(), Outcome::Allowed);
        seen.attempts.insert("kexec".into(), Outcome::Denied("EPERM".into()));
        let calls = Calls { distinct: [1, 2].into(), ioctls: [7].into(), total: 9 };
        let columns = [
            Column { key: "host".into(), seen, calls: Ok(calls) },
            Column { key: "vm".into(), seen: guest(), calls: Err("no right to trace".into()) },
        ];
        let groups = groups(&columns, &host());
        let of = |key: &str| groups.iter().find(|group| group.key == key).unwrap();
        let sample = |group: &str, key: &str| of(group).measure(key).unwrap().samples.clone();
        assert_eq!(sample("summary", "host")["host"], [1.0]);
        assert_eq!(sample("calls", "distinct")["host"], [2.0]);
        assert!(!sample("calls", "total").contains_key("vm"));
        assert_eq!(of("attempts").findings.len(), ATTEMPTS.len());
        assert_eq!(of("seen").findings.len(), ROWS.len());
        let bpf = of("attempts").findings.iter().find(|row| row.key == "bpf").unwrap();
        assert_eq!(bpf.bad, ["host"]);
        assert_eq!(bpf.values["vm"], "not tried");
        // It is a file's content, too.
        let text = serde_json::to_string(&groups).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Group>>(&text).unwrap(), groups);
    }
}
