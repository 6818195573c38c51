//! Pausing, limits at run time, statistics, lists, and many processes at once, on the host's kernel and its cgroups.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use bulkhead_protocol::{Call, Create, ExitStatus, FailureKind, Message, Reply, Root, Stdio};
use serde_json::json;
use support::{Agent, all, can_run, process, shell, spec};

/// What happens is waited for, and never longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happens() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A control file of a container, in whichever hierarchy has it.
fn control(agent: &Agent, id: &str, files: [&str; 2]) -> String {
    let id = agent.id(id);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
    for mount in mounts.map(|line| PathBuf::from(line.split(' ').nth(4).unwrap())) {
        let find = std::process::Command::new("find")
            .args([mount.to_str().unwrap(), "-maxdepth", "6", "-name", &format!("bulkhead-{id}")])
            .output()
            .unwrap();
        for group in String::from_utf8(find.stdout).unwrap().lines() {
            for file in files {
                if let Ok(text) = fs::read_to_string(format!("{group}/{file}")) {
                    return text.trim().to_owned();
                }
            }
        }
    }
    panic!("container {id} has none of {files:?}");
}

#[test]
fn paused_is_paused() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    let script =
        "i=0; while :; do i=$((i+1)); echo $i > /tmp/count.new; mv /tmp/count.new /tmp/count; done";
    agent.create("c", shell(script), &root, Stdio::default()).unwrap();
    assert_eq!(agent.resume("c").unwrap_err().kind, FailureKind::State);
    agent.start_container("c").unwrap();
    let file = root.join("tmp/count");
    let count = || fs::read_to_string(&file).unwrap_or_default();
    until("the first count", || !count().is_empty());

    agent.pause("c").unwrap();
    let before = count();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(count(), before, "it goes on while it is paused");
    assert_eq!(agent.pause("c").unwrap_err().kind, FailureKind::State);
    let refused = agent.exec("c", "x", process(&["true"]), Stdio::default()).unwrap_err();
    assert!(refused.message.contains("is paused"), "{refused}");
    // What does not kill waits.
    agent.kill("c", 15, false).unwrap();
    agent.resume("c").unwrap();
    until("the next count", || count() != before);
    assert_eq!(agent.resume("c").unwrap_err().kind, FailureKind::State);

    agent.pause("c").unwrap();
    agent.kill("c", 9, false).unwrap();
    assert_eq!(agent.wait("c", None).status, ExitStatus::Signal(9));
    assert_eq!(agent.pause("c").unwrap_err().kind, FailureKind::State);
    agent.delete("c").unwrap();

    // Paused before it was started.
    agent.create("d", shell("exit 3"), &root, Stdio::default()).unwrap();
    agent.pause("d").unwrap();
    let refused = agent.start_container("d").unwrap_err();
    assert!(refused.message.contains("is paused"), "{refused}");
    agent.resume("d").unwrap();
    agent.start_container("d").unwrap();
    assert_eq!(agent.wait("d", None).status, ExitStatus::Code(3));
    agent.delete("d").unwrap();
    assert_eq!(agent.shutdown(), Some(0));
}

#[test]
fn limits_change_and_what_is_used_is_told() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    let mut spec = shell("exec sleep 1000");
    spec["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "swap": 64 << 20}, "pids": {"limit": 50}, "cpu": {"shares": 512},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    agent.create("c", spec, &root, Stdio::default()).unwrap();
    agent.start_container("c").unwrap();
    let memory = ["memory.max", "memory.limit_in_bytes"];
    assert_eq!(control(&agent, "c", memory), (64 << 20).to_string());
    let stats = agent.stats("c").unwrap();
    assert_eq!((stats.pids.limit, stats.memory.usage.limit), (50, 64 << 20));
    assert!(stats.pids.current >= 1 && stats.memory.usage.usage > 0, "{stats:?}");
    assert!(stats.cpu.usage.total > 0 && !stats.memory.raw.is_empty(), "{stats:?}");

    // Both ways: the limits of memory and of memory and swap must not cross.
    for megabytes in [256_u64, 32, 128] {
        let limit = megabytes << 20;
        let resources =
            json!({"memory": {"limit": limit, "swap": 2 * limit}, "pids": {"limit": megabytes}});
        agent.update("c", resources).unwrap();
        let stats = agent.stats("c").unwrap();
        assert_eq!((stats.memory.usage.limit, stats.pids.limit), (limit, megabytes));
    }
    agent.update("c", json!({"memory": {"limit": -1}})).unwrap();
    assert!(agent.stats("c").unwrap().memory.usage.limit > 1 << 50);
    agent.update("c", json!({"cpu": {"quota": 20000, "period": 50000}})).unwrap();
    let quota = control(&agent, "c", ["cpu.max", "cpu.cfs_quota_us"]);
    assert!(quota.starts_with("20000"), "{quota}");

    let bad = agent.update("c", json!({"memory": {"limit": 10, "swap": 5}})).unwrap_err();
    assert_eq!(bad.kind, FailureKind::Invalid, "{bad}");
    assert!(bad.message.contains("memory.swap"), "{bad}");
    let checked = json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}});
    assert!(agent.update("c", checked).unwrap_err().message.contains("in use"));
    let strange = agent.update("c", json!({"network": {"classID": 5}})).unwrap_err();
    assert!(strange.message.contains("net_cls"), "{strange}");
    let missing = agent.update("nobody", json!({})).unwrap_err();
    assert_eq!(missing.kind, FailureKind::State);
    agent.kill("c", 9, true).unwrap();
    agent.wait("c", None);
    assert_eq!(agent.stats("c").unwrap_err().kind, FailureKind::State);
    agent.delete("c").unwrap();
}

#[test]
fn a_limit_that_this_host_cannot_keep_is_an_error() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    for (resources, named) in [
        (json!({"network": {"classID": 5}}), "net_cls"),
        (json!({"unified": {"nothing.at.all": "1"}}), "nothing.at.all"),
        (json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), "rdma"),
        (json!({"cpu": {"cpus": "4000"}}), "cpuset.cpus"),
        (json!({"devices": [{"allow": true, "type": "c", "access": "xyz"}]}), "access"),
    ] {
        let mut spec = shell("true");
        spec["linux"]["resources"] = resources;
        let failure = agent.create("c", spec, &root, Stdio::default()).unwrap_err();
        assert!(failure.message.contains(named), "{failure}");
    }
    // None of them left anything behind.
    agent.run(shell("true"));
}

#[test]
fn the_processes_are_listed() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    let script = "sleep 1001 & sleep 1002 & exec sleep 1000";
    agent.create("c", shell(script), &root, all(1)).unwrap();
    agent.start_container("c").unwrap();
    let mut list = Vec::new();
    until("three sleeping processes", || {
        list = agent.processes("c").unwrap();
        list.iter().filter(|one| one.command.starts_with("sleep") && one.state == 'S').count() == 3
    });
    let first = list.iter().find(|one| one.command == "sleep 1000").unwrap();
    assert_eq!((first.uid, first.threads, first.tty.as_deref()), (0, 1, None));
    assert!(first.resident > 0 && first.started_ms > 0, "{first:?}");
    assert_eq!(first.host_pid, Some(first.pid));
    assert_eq!(list.iter().filter(|one| one.ppid == first.pid).count(), 2, "{list:?}");
    agent.kill("c", 9, false).unwrap();
    agent.wait("c", None);
    agent.delete("c").unwrap();
}

/// Processes below this one, and whether they are zombies.
fn below(pid: u32) -> Vec<(u32, bool)> {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let mut all = Vec::new();
    for child in children {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        all.push((child, stat.contains(") Z ")));
        all.extend(below(child));
    }
    all
}

#[test]
fn orphans_are_reaped() {
    if !can_run() {
        return;
    }
    for mut agent in [Agent::start(), Agent::start_as_first()] {
        let root = agent.root("root");
        // Without a PID namespace of its own, its orphans become the agent's children.
        let mut spec = spec(&["sleep", "1000"]);
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
        agent.create("c", spec, &root, Stdio::default()).unwrap();
        agent.start_container("c").unwrap();
        let before = below(agent.pid()).len();
        for number in 0..20 {
            let name = format!("x{number}");
            let script = "(sleep 0.1; exit 5) & (sleep 0.1; exit 6) & exit 4";
            agent.exec("c", &name, process(&["sh", "-c", script]), Stdio::default()).unwrap();
            assert_eq!(agent.wait("c", Some(&name)).status, ExitStatus::Code(4));
        }
        until("the end of the orphans", || below(agent.pid()).len() == before);
        assert!(below(agent.pid()).iter().all(|(_, zombie)| !zombie));
        // Its end is that of those whom nobody waits for.
        agent
            .exec("c", "y", process(&["sh", "-c", "sleep 1000 & exit 4"]), Stdio::default())
            .unwrap();
        agent.wait("c", Some("y"));
        agent.kill("c", 9, false).unwrap();
        assert_eq!(agent.wait("c", None).status, ExitStatus::Signal(9));
        until("the end of all", || below(agent.pid()).len() == before - 1);
        agent.delete("c").unwrap();
    }
}

#[test]
fn many_at_once_each_with_its_own_end() {
    if !can_run() {
        return;
    }
    const COUNT: u8 = 40;
    let mut agent = Agent::start();
    let root = agent.root("root");
    agent.create("c", spec(&["sleep", "1000"]), &root, Stdio::default()).unwrap();
    agent.start_container("c").unwrap();
    for number in 0..COUNT {
        let mut process =
            process(&["sh", "-c", &format!("tty -s && t=tty; read x; echo $x $t; exit {number}")]);
        let token = 100 + 2 * u64::from(number);
        let stdio = if number % 2 == 0 {
            process["terminal"] = json!(true);
            Stdio { main: Some(token), stdin: true, stderr: None }
        } else {
            all(token)
        };
        agent.exec("c", &format!("x{number}"), process, stdio).unwrap();
    }
    // All of them run; they are let go in another order.
    for number in (0..COUNT).rev() {
        let mut stream = agent.stream(100 + 2 * u64::from(number));
        stream.write_all(format!("in{number}\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let expected =
            if number % 2 == 0 { format!("in{number} tty\r\n") } else { format!("in{number}\n") };
        assert!(text.ends_with(&expected), "{number}: {text:?}");
    }
    for number in 0..COUNT {
        assert_eq!(agent.wait("c", Some(&format!("x{number}"))).status, ExitStatus::Code(number));
    }
    for signal in [15, 9, 10] {
        agent.exec("c", "s", process(&["sleep", "1000"]), Stdio::default()).unwrap();
        let target = agent.target("c", Some("s"));
        agent.call(Call::Kill { target, signal, all: false }).unwrap();
        assert_eq!(
            agent.wait("c", Some("s")).status,
            ExitStatus::Signal(u8::try_from(signal).unwrap())
        );
    }
    agent.exec("c", "last", process(&["sleep", "1000"]), Stdio::default()).unwrap();
    agent.kill("c", 9, true).unwrap();
    assert_eq!(agent.wait("c", None).status, ExitStatus::Signal(9));
    assert_eq!(agent.wait("c", Some("last")).status, ExitStatus::Signal(9));
    agent.delete("c").unwrap();
}

#[test]
fn a_kill_for_want_of_memory_is_told_at_once() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    let mut spec = shell("while :; do sleep 1000; done");
    spec["linux"]["resources"] = json!({
        "memory": {"limit": 16 << 20, "swap": 16 << 20}, "devices": [{"allow": false, "access": "rwm"}],
    });
    agent.create("c", spec, &root, Stdio::default()).unwrap();
    agent.start_container("c").unwrap();
    let script = "x=$(head -c 60000000 /dev/zero | tr '\\0' x)";
    agent.exec("c", "eat", process(&["sh", "-c", script]), Stdio::default()).unwrap();
    let eaten = agent.wait("c", Some("eat"));
    assert!(eaten.status != ExitStatus::Code(0) && eaten.oom_killed, "{eaten:?}");
    while agent.kills.is_empty() {
        match agent.message() {
            Message::OomKilled { container, count } => agent.kills.push((container, count)),
            other => panic!("{other:?}"),
        }
    }
    let (container, count) = agent.kills[0].clone();
    assert!(container == agent.id("c") && count >= 1, "{container} {count}");
    agent.kill("c", 9, true).unwrap();
    agent.wait("c", None);
    agent.delete("c").unwrap();
}

#[test]
fn a_host_process_has_no_shares() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    for (tag, why) in
        [("root", "only a guest"), ("../x", "no virtio-fs tag"), ("..", "no virtio-fs tag")]
    {
        let create = Create {
            container: agent.id("c"),
            spec: shell("true"),
            root: Root::Directory { path: agent.root("root") },
            stdio: Stdio::default(),
            shares: vec![tag.to_owned()],
            bundle: String::new(),
            network: None,
            shared: Vec::new(),
            memory: Vec::new(),
        };
        let failure = agent.call(Call::Create(Box::new(create))).unwrap_err();
        assert!(failure.message.contains(why), "{failure}");
    }
    let reply = agent.create("c", shell("true"), &agent.root("root"), Stdio::default());
    assert!(matches!(reply, Ok(Reply::Process { .. })), "{reply:?}");
}

#[test]
fn an_end_says_how_much_was_written_before_it() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    agent.create("c", shell("echo first; exec sleep 1000"), &root, all(1)).unwrap();
    agent.start_container("c").unwrap();
    // A child keeps the streams open and writes later.
    let script = "head -c 100000 /dev/zero; echo err >&2; (sleep 1; echo late) & exit 3";
    agent.exec("c", "x", process(&["sh", "-c", script]), all(10)).unwrap();
    let (mut out, mut err) = (agent.stream(10), agent.stream(11));
    let mut bytes = vec![0; 100_000];
    out.read_exact(&mut bytes).unwrap();
    let ended = agent.wait("c", Some("x"));
    assert_eq!((ended.status, ended.written), (ExitStatus::Code(3), [100_000, 4]));
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "late\n");
    text.clear();
    err.read_to_string(&mut text).unwrap();
    assert_eq!(text, "err\n");

    let mut terminal = process(&["sh", "-c", "echo on a terminal"]);
    terminal["terminal"] = json!(true);
    let stdio = Stdio { main: Some(20), stdin: true, stderr: None };
    agent.exec("c", "t", terminal, stdio).unwrap();
    text.clear();
    agent.stream(20).read_to_string(&mut text).unwrap();
    let ended = agent.wait("c", Some("t"));
    assert_eq!(ended.written, [text.len() as u64, 0]);

    agent.kill("c", 9, true).unwrap();
    assert_eq!(agent.wait("c", None).written, [6, 0]);
    agent.delete("c").unwrap();
}
