//! Many containers, one after the other and several at a time, without anything that stays; and many processes in one.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use bulkhead_tests::harness::{Namespace, containerd::Containerd, oci::Oci, own_memory};

isolations!(nothing_stays);

/// How many; `BULKHEAD_TEST_CONTAINERS=100` for a longer run.
fn wanted(oci: &Oci) -> usize {
    let usual = if oci.is_vm() { 4 } else { 8 };
    asked().unwrap_or(usual)
}

fn asked() -> Option<usize> {
    env::var("BULKHEAD_TEST_CONTAINERS").ok().map(|text| text.parse().unwrap())
}

/// Runs them in rows that work at the same time; each has a network, is started, joined and removed. Returns where their shims listened.
fn rows(containerd: &Containerd<'_>, rows: usize, each: usize) -> Vec<PathBuf> {
    let row = |row: usize| -> Vec<PathBuf> {
        let [namespace, _far] =
            Namespace::pair("ip address add 10.92.10.5/24 dev eth0; ip link set eth0 up");
        let interfaces = || -> Vec<String> {
            let all = namespace.text("ip -o link");
            all.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
        };
        let before = interfaces();
        let network = format!("network:{}", namespace.path());
        let one = |number: usize| {
            let id = format!("r{row}-{number}");
            containerd.detached(&["--null-io", "--with-ns", &network], &id, "sleep 1000");
            containerd.exec("one", &id, "exit 4").assert_code(4);
            let socket = containerd.socket(&id);
            containerd.remove(&id);
            assert_eq!(interfaces(), before);
            socket
        };
        (0..each).map(one).collect()
    };
    thread::scope(|scope| {
        let row = &row;
        let started: Vec<_> = (0..rows).map(|number| scope.spawn(move || row(number))).collect();
        started.into_iter().flat_map(|row| row.join().unwrap()).collect()
    })
}

fn nothing_stays(oci: &Oci) {
    let containerd = Containerd::new(oci);
    // What is kept for later ones is there after the first.
    rows(&containerd, 1, 1);
    let before = Held::of(oci, &containerd);
    let mut sockets = rows(&containerd, 1, wanted(oci));
    let at_once = if oci.is_vm() && asked().is_none() { 2 } else { 8 };
    sockets.extend(rows(&containerd, at_once, wanted(oci).div_ceil(at_once * 2)));
    oci.wait("the last shims' ends", || shims(oci) == 0);
    let left: Vec<_> = sockets.iter().filter(|socket| socket.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    before.assert_no_more(oci, &containerd);
    many_processes(oci, &containerd);
    before.assert_no_more(oci, &containerd);
}

/// A shim that lives long.
fn many_processes(oci: &Oci, containerd: &Containerd<'_>) {
    containerd.detached(&["--null-io"], "long", "sleep 100000");
    let pids = |containerd: &Containerd<'_>| {
        [containerd.shim_pid("long"), containerd.task("long").unwrap().0]
    };
    let run = |name: &str| {
        for number in 0..wanted(oci) {
            containerd.exec(&format!("{name}{number}"), "long", "exit 4").assert_code(4);
        }
    };
    run("warm");
    let [shim, task] = pids(containerd);
    let usage = || ([descriptors(shim), descriptors(task)], [own_memory(shim), own_memory(task)]);
    let (open, memory) = usage();
    run("more");
    assert_eq!(pids(containerd), [shim, task]);
    oci.wait("descriptors to be closed", || {
        usage().0.iter().zip(open).all(|(now, old)| *now <= old)
    });
    let grown: Vec<_> =
        usage().1.iter().zip(memory).map(|(now, old)| now.saturating_sub(old)).collect();
    println!("{} processes: grown by {grown:?} KiB from {memory:?}", wanted(oci));
    assert!(grown.iter().all(|grown| *grown < 2048), "{grown:?} KiB from {memory:?}");
    containerd.remove("long");
}

/// What is held of the host between containers, a line each: processes, mounts, cgroups, files of state and of the store, containerd's files of tasks and
/// snapshots, and its pipes.
struct Held(BTreeSet<String>);

impl Held {
    fn of(oci: &Oci, containerd: &Containerd<'_>) -> Self {
        let mut held = BTreeSet::new();
        for directory in ["data", "run"] {
            below(&oci.path(directory), usize::MAX, &mut held);
        }
        let snapshots = oci.path("containerd/io.containerd.snapshotter.v1.overlayfs/snapshots");
        below(&snapshots, 1, &mut held);
        // Other processes only see a mount of the test's, in namespaces that were made while it was there.
        held.extend(oci.leftovers().into_iter().filter(|thing| !thing.starts_with("process")));
        held.extend((0..pipes(containerd.pid())).map(|number| format!("pipe {number}")));
        held.extend((0..shims(oci)).map(|number| format!("shim {number}")));
        Self(held)
    }

    /// Less may be held, of what is removed later.
    #[track_caller]
    fn assert_no_more(&self, oci: &Oci, containerd: &Containerd<'_>) {
        for _ in 0..3000 {
            if Self::of(oci, containerd).0.is_subset(&self.0) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let Self(now) = Self::of(oci, containerd);
        panic!("more is held: {:#?}", now.difference(&self.0).collect::<Vec<_>>());
    }
}

fn below(directory: &Path, depth: usize, found: &mut BTreeSet<String>) {
    for item in fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth > 1 && item.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&item.path(), depth - 1, found);
        }
        found.insert(item.path().display().to_string());
    }
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count()
}

/// A daemon has other descriptors that come and go.
fn pipes(pid: u32) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let names = links.filter_map(|link| fs::read_link(link.path()).ok());
    names.filter(|name| name.ends_with("log") || name.to_string_lossy().contains("pipe:")).count()
}

/// The test's shims that run.
fn shims(oci: &Oci) -> usize {
    let is_shim = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|words| words.windows(15).any(|part| part == b"containerd-shim"))
    };
    oci.processes().iter().filter(|pid| is_shim(pid)).count()
}
