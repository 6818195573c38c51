//! Containers that were made before they were asked for, beside others.

use std::io::Read;

use bulkhead_protocol::{ExitStatus, Reply, Stdio, Upper};
use bulkhead_vmm::api::End;
use serde_json::{Value, json};

use crate::{
    boot, layers, prepare,
    support::{Agent, process, shell},
};

/// What a container sees of itself.
const LOOK: &str = "cat /proc/self/mountinfo; echo ==; cat /proc/1/status; echo ==; cd /dev; ls -lan . shm mqueue pts; echo ==; \
    cat /proc/self/cgroup /sys/fs/cgroup/*.max /proc/1/limits; hostname; pwd; umask; echo /proc/[0-9]* $(ls /proc/1/fd); \
    ls -l /proc/1/ns/ | sed 's/.*-> //'; wc -c /proc/kcore /proc/sched_debug; echo /sys/firmware/*; mknod /tmp/disk b 254 0 && \
    head -c 1 /tmp/disk; for file in /proc/sys/kernel/hostname /proc/sysrq-trigger /dev/null /dev/zero; do echo x > $file; done";

/// Some of it, in few processes.
const GLANCE: &str = "cat /proc/self/mountinfo; echo ==; cat /proc/1/status; echo ==; cd /dev; ls -lan . shm mqueue pts; echo ==; \
    cat /proc/self/cgroup; echo /proc/[0-9]* /sys/firmware/* /proc/kcore; \
    for file in /proc/sys/kernel/hostname /dev/null; do echo x > $file; done";

/// As two containers must agree about it: without numbers that the kernel gives out, in an order of its own.
fn likeness(out: &str) -> Vec<String> {
    let mut parts = out.split("==\n");
    let mut lines: Vec<_> = parts
        .next()
        .unwrap()
        .lines()
        .map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    let changes = |line: &&str| {
        let numbers =
            ["ctxt_switches", "Vm", "Rss", "Cpus_allowed_list", "Speculation", "voluntary"];
        !numbers.iter().any(|word| line.contains(word))
    };
    let namespace = |line: &str| line.split(":[").next().unwrap().to_owned();
    let dated = |line: &str| {
        // Times of files.
        let words: Vec<_> = line.split_whitespace().collect();
        if words.len() > 8 {
            // A device has two numbers in the place of a size.
            let date = if words[4].ends_with(',') { 6 } else { 5 };
            [&words[..date], &words[date + 3..]].concat().join(" ")
        } else {
            line.to_owned()
        }
    };
    lines.extend(parts.next().unwrap().lines().filter(changes).map(str::to_owned));
    lines.extend(parts.next().unwrap().lines().map(dated));
    lines.extend(parts.next().unwrap().lines().map(namespace));
    lines
}

/// A container that takes what was made ahead, and one that does not, are alike.
#[test]
fn a_container_that_was_made_ahead() {
    let Some(mut agent) = boot() else { return };
    let limits = json!({
        "memory": {"limit": 64 << 20}, "pids": {"limit": 50},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    let mut expected = shell("true");
    let mut asked = shell(LOOK);
    asked["linux"]["resources"] = limits;
    let ordinary = agent.run_in(layers(Upper::Tmpfs), asked.clone());
    let nonce = "0".repeat(32);
    agent.call(prepare(&nonce, vec![expected.clone()])).unwrap();
    let begin = agent.instructions();
    let ahead = agent.run_in(layers(Upper::Tmpfs), asked.clone());
    println!(
        "guest-kernel instructions of a container that was made ahead: {}",
        agent.instructions() - begin
    );
    assert_eq!(ahead.2, ordinary.2);
    assert_eq!(likeness(&ahead.0), likeness(&ordinary.0));
    assert_eq!(ahead.1, ordinary.1);
    assert!(ahead.1.contains("Read-only file system"), "{}", ahead.1);

    // There is none any more; and one that is not what a container asks for stays for another.
    let out = |(out, _, status)| (out, status);
    let fine = |text: &str| (text.to_owned(), ExitStatus::Code(0));
    assert_eq!(out(agent.run_in(layers(Upper::Tmpfs), shell("echo again"))), fine("again\n"));
    expected["linux"]["maskedPaths"] = json!([]);
    agent.call(prepare(&nonce, vec![expected.clone()])).unwrap();
    assert_eq!(out(agent.run_in(layers(Upper::None), shell("echo other"))), fine("other\n"));
    expected["process"] = process(&["sh", "-c", "tty; grep -c . /proc/1/mountinfo; touch /x"]);
    expected["process"]["terminal"] = json!(true);
    expected["root"]["readonly"] = json!(true);
    let stdio = Stdio { main: Some(9), stdin: false, stderr: None };
    agent.create_in("t", expected, layers(Upper::Tmpfs), stdio).unwrap();
    agent.start_container("t").unwrap();
    let mut text = String::new();
    agent.stream(9).read_to_string(&mut text).unwrap();
    assert!(text.starts_with("/dev/console") || text.starts_with("/dev/pts/0"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    agent.wait("t", None);
    agent.delete("t").unwrap();
    let mut unknown = shell("true");
    unknown["mounts"][0]["type"] = json!("nofs");
    agent.call(prepare(&nonce, vec![unknown])).unwrap();
    assert_eq!(agent.power_off().0, End::PowerOff);
}

/// A container, and how many of its mounts were made ahead with its process.
fn look(agent: &mut Agent, spec: &Value) -> (Option<usize>, (String, String, ExitStatus)) {
    let (reply, outcome) = agent.run_made(layers(Upper::Tmpfs), spec.clone());
    let Reply::Process { ahead, .. } = reply else { panic!("{reply:?}") };
    (ahead, outcome)
}

/// Containers of all kinds of which one process is made ahead are like those that are made when they are asked for.
#[test]
fn containers_of_other_kinds_that_were_made_ahead() {
    let Some(mut agent) = boot() else { return };
    let usual = shell(GLANCE);
    let mut expected = vec![shell("true")];
    let mut asked = Vec::new();
    let mut case = |name, mounts, change: &dyn Fn(&mut Value), is_expected: bool| {
        let mut spec = usual.clone();
        change(&mut spec);
        if is_expected {
            expected.push(spec.clone());
        }
        asked.push((name, spec, mounts));
    };
    case("without a cgroup namespace", Some(6), &|spec| without_namespace(spec, "cgroup"), true);
    case(
        "with other options, and other paths hidden",
        Some(7),
        &|spec| {
            spec["mounts"][0]["options"] = json!([]);
            spec["mounts"][1]["options"] =
                json!(["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]);
            spec["mounts"][4]["options"] =
                json!(["rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"]);
            spec["linux"]["maskedPaths"] =
                json!(["/proc/kcore", "/sys/firmware", "/sys/dev/block"]);
            spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/bus"]);
        },
        true,
    );
    case(
        "with a tmpfs more and one less",
        Some(7),
        &|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts[6] = json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
        },
        true,
    );
    case(
        "with fewer capabilities, more hidden, and kernel parameters",
        Some(7),
        &|spec| {
            let some = json!(["CAP_KILL", "CAP_AUDIT_WRITE"]);
            let sets =
                json!({"bounding": some, "effective": some, "permitted": some, "ambient": some});
            spec["process"]["capabilities"] = sets;
            spec["process"]["noNewPrivileges"] = json!(true);
            spec["linux"]["sysctl"] =
                json!({"net.ipv4.ping_group_range": "0 7", "kernel.shmmax": "4096"});
            let masked = spec["linux"]["maskedPaths"].as_array_mut().unwrap();
            masked.extend([json!("/proc/meminfo"), json!("/sys/class")]);
            let look =
                format!("{LOOK}; cat /proc/sys/net/ipv4/ping_group_range /proc/sys/kernel/shmmax");
            spec["process"]["args"][2] = json!(look);
        },
        false,
    );
    case(
        "with less hidden",
        Some(6),
        &|spec| {
            let read_only = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"]);
            spec["linux"]["readonlyPaths"] = read_only;
        },
        false,
    );
    case(
        "with a device more",
        Some(0),
        &|spec| {
            let device =
                json!({"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600});
            spec["linux"]["devices"] = json!([device]);
        },
        false,
    );
    case(
        "with more capabilities",
        None,
        &|spec| {
            let all = json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]);
            spec["process"]["capabilities"] = json!({"bounding": all, "permitted": all});
        },
        false,
    );
    case("in the agent's namespace", None, &|spec| without_namespace(spec, "ipc"), false);
    for (name, spec, mounts) in asked {
        let (none, ordinary) = look(&mut agent, &spec);
        assert_eq!(none, None, "{name}");
        agent.call(prepare(&"0".repeat(32), expected.clone())).unwrap();
        let (ahead, own) = look(&mut agent, &spec);
        assert_eq!(ahead, mounts, "{name}");
        assert_eq!(likeness(&own.0), likeness(&ordinary.0), "{name}");
        assert_eq!((own.1, own.2), (ordinary.1, ordinary.2), "{name}");
    }
    // One that sees the agent's processes does not see what waits for another.
    let mut all = shell("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | sort");
    without_namespace(&mut all, "pid");
    agent.call(prepare(&"0".repeat(32), expected)).unwrap();
    let (ahead, (first, ..)) = look(&mut agent, &all);
    assert_eq!(ahead, None);
    // It shares the agent's memory, and so its words.
    assert_eq!(first.lines().filter(|line| *line == "/init").count(), 1, "{first}");
    assert_eq!(agent.power_off().0, End::PowerOff);
}

fn without_namespace(spec: &mut Value, kind: &str) {
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != kind);
}
