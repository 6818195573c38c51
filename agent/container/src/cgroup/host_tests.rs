//! Against the host's own hierarchies, whatever their version, in groups that are removed at the end. As root.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Pid;

use super::{Cgroup, CgroupRecord, Cgroups, Version};
use crate::{error::Kind, spec::Resources};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The hierarchies, and an id of the test's own; nothing, and a line that says so, where there are none.
fn host() -> Option<(Cgroups, String)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: control groups need root");
        return None;
    }
    let Some(cgroups) = Cgroups::host().unwrap() else {
        eprintln!("skipped: this host has no cgroup hierarchies");
        return None;
    };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Some((cgroups, format!("test-{}-{number}", std::process::id())))
}

fn resources(json: &str) -> Resources {
    serde_json::from_str(json).unwrap()
}

fn create(cgroups: &Cgroups, path: Option<&str>, id: &str, json: &str) -> Cgroup {
    let (cgroup, warnings) = cgroups.create(path, id, &resources(json)).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    cgroup
}

/// A process in the group.
fn process(cgroup: &Cgroup, words: &[&str]) -> Child {
    let child = Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).spawn().unwrap();
    enter(cgroup, child.id());
    child
}

fn enter(cgroup: &Cgroup, pid: u32) {
    cgroup.enter(Pid::from_raw(pid.cast_signed()).unwrap()).unwrap();
    if let Some(dir) = cgroup.directory_of(Version::V2) {
        dir.write("cgroup.procs", &pid.to_string()).unwrap();
    }
}

fn is_there(cgroup: &Cgroup) -> bool {
    cgroup.places().any(|place| Path::new(place.path).exists())
}

#[test]
fn limits_are_what_the_kernel_then_says() {
    let Some((cgroups, id)) = host() else { return };
    let cgroup = create(
        &cgroups,
        None,
        &id,
        r#"{"memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432}, "pids": {"limit": 33},
            "cpu": {"shares": 512, "quota": 30000, "period": 60000, "burst": 1000, "cpus": "0", "mems": "0"}}"#,
    );
    for (controller, v1, v2) in [
        ("memory", ("memory.limit_in_bytes", "67108864"), ("memory.max", "67108864")),
        ("memory", ("memory.memsw.limit_in_bytes", "134217728"), ("memory.swap.max", "67108864")),
        ("memory", ("memory.soft_limit_in_bytes", "33554432"), ("memory.low", "33554432")),
        ("pids", ("pids.max", "33"), ("pids.max", "33")),
        ("cpu", ("cpu.shares", "512"), ("cpu.weight", "20")),
        ("cpu", ("cpu.cfs_quota_us", "30000"), ("cpu.max", "30000 60000")),
        ("cpu", ("cpu.cfs_period_us", "60000"), ("cpu.max", "30000 60000")),
        ("cpu", ("cpu.cfs_burst_us", "1000"), ("cpu.max.burst", "1000")),
        ("cpuset", ("cpuset.cpus", "0"), ("cpuset.cpus", "0")),
    ] {
        let dir = cgroup.directory(controller).unwrap();
        let (file, expected) = if dir.version == Version::V1 { v1 } else { v2 };
        assert_eq!(dir.read(file).unwrap().trim(), expected, "{file}");
    }
    cgroup.remove().unwrap();
    assert!(!is_there(&cgroup));
    cgroup.remove().unwrap();
}

#[test]
fn limits_go_up_and_down() {
    let Some((cgroups, id)) = host() else { return };
    let cgroup = create(&cgroups, None, &id, "{}");
    for json in [
        r#"{"memory": {"limit": 104857600, "swap": 104857600}, "cpu": {"quota": 50000, "period": 100000}}"#,
        r#"{"memory": {"limit": 209715200, "swap": 209715200}, "cpu": {"quota": 5000, "period": 10000}}"#,
        r#"{"memory": {"limit": 52428800, "swap": 52428800}, "cpu": {"quota": 500000, "period": 1000000}}"#,
        r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}}"#,
        r#"{"memory": {"limit": 52428800, "swap": -1}, "pids": {"limit": -1}}"#,
    ] {
        let warnings = cgroup.update(&resources(json)).unwrap();
        assert!(warnings.is_empty(), "{json}: {warnings:?}");
        let wanted = resources(json);
        let limit = wanted.memory.unwrap().limit.unwrap();
        let stats = cgroup.stats();
        if limit > 0 {
            assert_eq!(stats.memory.usage.limit, limit.cast_unsigned(), "{json}");
        } else {
            assert!(stats.memory.usage.limit > 1 << 50, "{json}");
        }
    }
    cgroup.remove().unwrap();
}

#[test]
fn a_group_by_its_path() {
    let Some((cgroups, id)) = host() else { return };
    let top = format!("/{id}");
    let cgroup = create(&cgroups, Some(&format!("{top}/a/b")), &id, "{}");
    for place in cgroup.places() {
        assert!(place.path.ends_with(&format!("{top}/a/b")), "{place:?}");
        assert!(Path::new(place.path).is_dir(), "{place:?}");
    }
    let json = serde_json::to_string(&cgroup.record()).unwrap();
    drop(cgroup);
    // A second one beside it keeps what they share.
    let beside = create(&cgroups, Some(&format!("{top}/a/c")), &id, "{}");
    let again = Cgroup::open(serde_json::from_str::<CgroupRecord>(&json).unwrap());
    again.remove().unwrap();
    assert!(!is_there(&again) && is_there(&beside));
    let above: Vec<_> =
        beside.places().map(|place| place.path.strip_suffix("/a/c").unwrap().to_owned()).collect();
    beside.remove().unwrap();
    assert!(!is_there(&beside));
    for path in above {
        // Made for the first one and still in use at its end, they stay, as runc leaves them.
        fs::remove_dir(format!("{path}/a")).unwrap();
        fs::remove_dir(path).unwrap();
    }
    let alone = create(&cgroups, Some(&format!("{top}/a/b")), &id, "{}");
    let paths: Vec<_> =
        alone.places().map(|place| place.path.strip_suffix("/a/b").unwrap().to_owned()).collect();
    alone.remove().unwrap();
    assert!(paths.iter().all(|path| !Path::new(path).exists()), "{paths:?}");
}

#[test]
fn an_empty_group_is_replaced_and_a_used_one_refused() {
    let Some((cgroups, id)) = host() else { return };
    let path = format!("/{id}");
    let first = create(&cgroups, Some(&path), &id, r#"{"pids": {"limit": 7}}"#);
    for place in first.places() {
        fs::create_dir(format!("{}/below", place.path)).unwrap();
    }
    let second = create(&cgroups, Some(&path), &id, "{}");
    assert_eq!(second.stats().pids.limit, 0, "the old group's limit is still there");
    let mut child = process(&second, &["sleep", "1000"]);
    let error = cgroups.create(Some(&path), &id, &resources("{}")).unwrap_err();
    assert_eq!(error.kind(), Kind::State, "{error}");
    assert_eq!(second.processes().unwrap(), [child.id()], "{error}");
    second.remove().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(!is_there(&second));
}

#[test]
fn nothing_is_left_of_a_group_that_cannot_be() {
    let Some((cgroups, id)) = host() else { return };
    for json in [
        r#"{"cpu": {"cpus": "4000"}}"#,
        r#"{"memory": {"limit": 10, "swap": 5}}"#,
        r#"{"rdma": {"none0": {"hcaHandles": 1}}}"#,
        r#"{"unified": {"memory.nothing": "1"}}"#,
    ] {
        let path = format!("/{id}/deep");
        let error = cgroups.create(Some(&path), &id, &resources(json)).unwrap_err();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
            let left = format!("{}/{id}", line.split(' ').nth(4).unwrap());
            assert!(!Path::new(&left).exists(), "{left} is left after: {error}");
        }
    }
}

#[test]
fn frozen_processes_stop_and_go_on_and_can_be_killed() {
    let Some((cgroups, id)) = host() else { return };
    let cgroup = create(&cgroups, None, &id, "{}");
    let mut child = process(&cgroup, &["sh", "-c", "while :; do sleep 0.01; done"]);
    let ticks = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(8).unwrap().to_owned()
    };
    assert!(!cgroup.is_frozen());
    for _ in 0..10 {
        cgroup.freeze().unwrap();
        assert!(cgroup.is_frozen());
        // Page faults of the children that it makes are counted.
        let before = ticks(child.id());
        thread::sleep(Duration::from_millis(30));
        assert_eq!(ticks(child.id()), before);
        cgroup.thaw().unwrap();
        assert!(!cgroup.is_frozen());
    }
    cgroup.freeze().unwrap();
    cgroup.signal_all(libc::SIGKILL).unwrap();
    assert!(!child.wait().unwrap().success());
    cgroup.remove().unwrap();
}

#[test]
fn all_of_them_are_found_and_killed_while_they_multiply() {
    let Some((cgroups, id)) = host() else { return };
    let cgroup = create(&cgroups, None, &id, r#"{"pids": {"limit": 200}}"#);
    // Some move into groups of their own below.
    let mut inner = process(&cgroup, &["sleep", "1000"]);
    for place in cgroup.places() {
        let below = format!("{}/below", place.path);
        fs::create_dir(&below).unwrap();
        if place.controllers.contains("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(format!("{below}/{file}"), "0").unwrap();
            }
        }
        fs::write(format!("{below}/cgroup.procs"), inner.id().to_string()).unwrap();
    }
    let bomb = "bomb() { while :; do (bomb) & (sleep 1000) & done; }; bomb";
    let mut outer = Command::new("sh")
        .args(["-c", &format!("read go; {bomb}")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    enter(&cgroup, outer.id());
    drop(outer.stdin.take());
    let deadline = Instant::now() + Duration::from_secs(20);
    while cgroup.processes().unwrap().len() < 100 {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(cgroup.processes().unwrap().contains(&inner.id()));
    cgroup.signal_all(libc::SIGKILL).unwrap();
    inner.wait().unwrap();
    outer.wait().unwrap();
    cgroup.remove().unwrap();
    assert!(!is_there(&cgroup));
    assert!(cgroup.processes().unwrap().is_empty());
}

#[test]
fn devices_are_restricted() {
    let Some((cgroups, id)) = host() else { return };
    let cgroup = create(&cgroups, None, &id, "{}");
    let rules = r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]"#;
    cgroup.restrict_devices(&serde_json::from_str::<Vec<_>>(rules).unwrap()).unwrap();
    let script = "read go; head -c 0 /dev/null && echo > /dev/null && ! head -c 1 /dev/net/tun 2> /dev/null && \
        head -c 0 /dev/kmsg && ! echo x > /dev/kmsg";
    let child = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    enter(&cgroup, child.id());
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("/dev/kmsg: Operation not permitted"), "{errors}");
    assert!(output.status.success(), "{errors}");
    cgroup.remove().unwrap();
}

#[test]
fn what_is_used_is_counted_and_kills_are_told() {
    let Some((cgroups, id)) = host() else { return };
    let cgroup =
        create(&cgroups, None, &id, r#"{"memory": {"limit": 33554432, "swap": 33554432}}"#);
    let mut events = cgroup.oom_events().unwrap();
    assert_eq!(events.wait(Duration::from_millis(10)).unwrap(), Some(0));
    let eat = "read go; x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let mut child = Command::new("sh").args(["-c", eat]).stdin(Stdio::piped()).spawn().unwrap();
    enter(&cgroup, child.id());
    assert!(!cgroup.oom_killed());
    drop(child.stdin.take());
    assert!(events.wait(Duration::from_secs(20)).unwrap().unwrap() > 0);
    child.wait().unwrap();
    assert!(cgroup.oom_killed());
    let stats = cgroup.stats();
    assert!(stats.memory.usage.max > 30 << 20 || stats.memory.usage.max == 0, "{stats:?}");
    assert!(stats.cpu.usage.total > 1_000_000, "{stats:?}");
    assert!(stats.memory.raw.len() > 10, "{stats:?}");
    assert_eq!(stats.memory.usage.limit, 33_554_432);
    let remover = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        cgroup.remove().unwrap();
    });
    let gone = (0..100).any(|_| events.wait(Duration::from_millis(50)).unwrap().is_none());
    assert!(gone, "the end of the group is not told");
    remover.join().unwrap();
}
