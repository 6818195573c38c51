//! A container whose writes stay in memory.

use std::{
    io::{Read, Write},
    net::Shutdown,
    time::Duration,
};

use bulkhead_protocol::{Call, Create, ExitStatus, Reply, Stdio, Upper};
use bulkhead_vmm::api::{End, Mark};
use serde_json::json;

use crate::{
    boot, layers,
    support::{Agent, all, process, shell},
};

/// Limits, terminals, joining processes, pausing, in a root whose writes stay in memory: one boot for all of it.
#[test]
fn a_container_in_memory() {
    let Some(mut agent) = boot() else { return };
    let mut spec = shell("sleep 1000");
    spec["linux"]["cgroupsPath"] = json!("/docker/of/the/host");
    spec["linux"]["resources"] = json!({
        "memory": {"limit": 12 << 20, "swap": 12 << 20, "reservation": 6 << 20, "swappiness": 10}, "pids": {"limit": 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100_000},
        "unified": {"memory.high": "11534336", "cgroup.max.depth": "3"},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    spec["process"]["env"].as_array_mut().unwrap().push(json!("HOME=/root"));
    let reply = agent.create_in("c", spec, layers(Upper::Tmpfs), Stdio::default()).unwrap();
    let Reply::Process { warnings, .. } = reply else { panic!("{reply:?}") };
    assert!(warnings.len() == 1 && warnings[0].contains("memory.swappiness"), "{warnings:?}");
    agent.start_container("c").unwrap();

    let script = "cd /sys/fs/cgroup; cat memory.max memory.low memory.high cgroup.max.depth pids.max cpu.max cpu.weight; \
        mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk; mkdir /tmp/new; grep -c lo: /proc/net/dev; hostname; exit 9";
    let (out, err, status) = run(&mut agent, "look", script, 10);
    assert_eq!(out, "12582912\n6291456\n11534336\n3\n20\n50000 100000\n20\n1\ninside\n", "{err}");
    assert!(err.contains("/tmp/disk: Operation not permitted"), "{err}");
    assert!(err.contains("No space left on device"), "{err}");
    assert_eq!(status, ExitStatus::Code(9));

    let mut terminal = process(&["sh", "-c", "tty; stty size; read x; echo got $x"]);
    terminal["terminal"] = json!(true);
    terminal["consoleSize"] = json!({"height": 11, "width": 22});
    let stdio = Stdio { main: Some(20), stdin: true, stderr: None };
    agent.exec("c", "tty", terminal, stdio).unwrap();
    let mut stream = agent.stream(20);
    stream.write_all(b"typed\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("/dev/pts/0") && text.contains("11 22") && text.contains("got typed"),
        "{text}"
    );
    let ended = agent.wait("c", Some("tty"));
    assert_eq!((ended.status, ended.written), (ExitStatus::Code(0), [text.len() as u64, 0]));

    limits(&mut agent);
    pauses(&mut agent);

    // More than the limit, in memory that is a file's. A page takes a software KVM 2 ms, so the limit is low.
    let script = "head -c 100000000 /dev/zero > /dev/shm/big";
    agent.exec("c", "eat", process(&["sh", "-c", script]), Stdio::default()).unwrap();
    let eaten = agent.wait("c", Some("eat"));
    assert!(eaten.status != ExitStatus::Code(0), "{eaten:?}");
    // The answer comes after what happened before the question.
    agent.stats("c").unwrap();
    assert!(agent.kills.iter().any(|(container, count)| container == "c" && *count > 0));

    // The end of the first process, while it is paused, is the end of all.
    agent.exec("c", "other", process(&["sleep", "1000"]), Stdio::default()).unwrap();
    agent.pause("c").unwrap();
    agent.kill("c", 9, false).unwrap();
    assert_eq!(agent.wait("c", None).status, ExitStatus::Signal(9));
    assert_eq!(agent.wait("c", Some("other")).status, ExitStatus::Signal(9));
    agent.delete("c").unwrap();

    let create = Create {
        container: "s".to_owned(),
        spec: shell("true"),
        root: layers(Upper::Tmpfs),
        stdio: Stdio::default(),
        shares: vec!["nothing".to_owned()],
        bundle: String::new(),
        network: None,
        shared: Vec::new(),
        memory: Vec::new(),
    };
    let failure = agent.call(Call::Create(Box::new(create))).unwrap_err();
    assert!(failure.message.contains("nothing"), "{failure}");

    let (end, guest) = agent.power_off();
    println!(
        "guest-kernel instructions: init to container, in memory {}",
        guest.instructions(Mark::InitExec, Mark::ContainerExec)
    );
    assert_eq!(end, End::PowerOff);
}

/// Runs a script in container `c`: its standard output, its standard error, its status.
fn run(agent: &mut Agent, name: &str, script: &str, token: u64) -> (String, String, ExitStatus) {
    agent.exec("c", name, process(&["sh", "-c", script]), all(token)).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(token).read_to_string(&mut out).unwrap();
    agent.stream(token + 1).read_to_string(&mut err).unwrap();
    let status = agent.wait("c", Some(name)).status;
    (out, err, status)
}

fn limits(agent: &mut Agent) {
    let stats = agent.stats("c").unwrap();
    assert_eq!((stats.memory.usage.limit, stats.pids.limit), (12 << 20, 20));
    assert!(stats.cpu.usage.total > 0 && stats.pids.current == 1, "{stats:?}");
    assert!(stats.memory.usage.usage > 0 && stats.memory.raw.contains_key("anon"), "{stats:?}");
    let resources = json!({
        "memory": {"limit": 8 << 20, "swap": 8 << 20}, "pids": {"limit": 30},
        "cpu": {"quota": 90000, "period": 100_000, "burst": 1000}, "unified": {"memory.high": "max"},
    });
    let warnings = agent.update("c", resources).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let files = "cd /sys/fs/cgroup; cat memory.max memory.high pids.max cpu.max cpu.max.burst";
    let (out, ..) = run(agent, "again", files, 30);
    assert_eq!(out, "8388608\nmax\n30\n90000 100000\n1000\n");
    for (resources, named) in [
        (json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}), "in use"),
        (json!({"cpu": {"realtimeRuntime": 100, "realtimePeriod": 1000}}), "realtimeRuntime"),
        (json!({"network": {"classID": 1}}), "net_cls"),
        (json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}), "hugetlb.2MB.max"),
    ] {
        let failure = agent.update("c", resources).unwrap_err();
        assert!(failure.message.contains(named), "{failure}");
    }
}

fn pauses(agent: &mut Agent) {
    let script = "while read x; do echo $x; done";
    agent.exec("c", "echo", process(&["sh", "-c", script]), all(40)).unwrap();
    let mut stream = agent.stream(40);
    let mut echo = |text: &[u8]| {
        let mut back = vec![0; text.len()];
        stream.write_all(text).unwrap();
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, text);
    };
    echo(b"before\n");
    agent.pause("c").unwrap();
    let list = agent.processes("c").unwrap();
    let commands: Vec<_> = list.iter().map(|one| one.command.as_str()).collect();
    assert_eq!(commands, ["sleep 1000", "sh -c while read x; do echo $x; done"]);
    assert!(list.iter().all(|one| one.host_pid.is_none() && one.resident > 0), "{list:?}");
    let refused = agent.exec("c", "late", process(&["true"]), Stdio::default()).unwrap_err();
    assert!(refused.message.contains("is paused"), "{refused}");
    // What is sent meanwhile waits.
    stream.write_all(b"meanwhile\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it goes on while it is paused");
    stream.set_read_timeout(None).unwrap();
    agent.resume("c").unwrap();
    let mut back = [0; 10];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"meanwhile\n");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(agent.wait("c", Some("echo")).status, ExitStatus::Code(0));
}
