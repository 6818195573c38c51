//! The agent as the first process of a guest. `BULKHEAD_VMM`, `BULKHEAD_KERNEL` and `BULKHEAD_INITRD` say of what the guest
//! is made; `BULKHEAD_SERIAL` names a file for its console.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::Command,
};

use bulkhead_protocol::{ExitStatus, Lower, Root, Stdio, Upper};
use bulkhead_vmm::api::{End, Mark};
use serde_json::json;
use support::{Agent, Guest, all, erofs, ext4, make_root, parts, process, shell};

fn layers(upper: Upper) -> Root {
    Root::Layers { lower: Lower::Erofs { device: PathBuf::from("/dev/vda") }, upper }
}

/// An image with busybox and a writable disk.
fn boot() -> Option<Agent> {
    let parts = parts()?;
    Some(Agent::boot(parts, |dir| {
        let root = make_root(dir.join("root"));
        let (lower, upper) = (dir.join("lower"), dir.join("upper"));
        erofs(&root, &lower);
        ext4(&upper, &dir.join("content"));
        vec![lower, upper]
    }))
}

#[test]
fn a_container_from_disks() {
    let Some(mut agent) = boot() else { return };
    assert!(agent.ready.kernel.starts_with('6'), "{:?}", agent.ready);
    let upper = Upper::Ext4 { device: PathBuf::from("/dev/vdb") };
    let stdio = Stdio { main: Some(1), stdin: false, stderr: Some(2) };
    let spec = shell("echo $$ $(hostname); echo x > /file && cat /file; echo err >&2; exit 3");
    agent.create_in("c", spec, layers(upper), stdio).unwrap();
    agent.start_container("c").unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(1).read_to_string(&mut out).unwrap();
    agent.stream(2).read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("1 inside\nx\n", "err\n"));
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(3));
    let (end, guest) = agent.power_off();
    println!(
        "guest-kernel instructions: entry to init {}, init to container {}",
        guest.instructions(Mark::KernelEntry, Mark::InitExec),
        guest.instructions(Mark::InitExec, Mark::ContainerExec)
    );
    assert_eq!(end, End::PowerOff);
    // What was written is on the disk, which was let go of in good order.
    let disk = agent.dir.path().join("upper");
    let check = Command::new("e2fsck").arg("-fn").arg(&disk).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let find = Command::new("debugfs").args(["-R", "cat /upper/file"]).arg(&disk).output().unwrap();
    assert_eq!(find.stdout, b"x\n");
}

#[test]
fn a_monitor_that_goes_away_ends_the_guest() {
    let Some(mut agent) = boot() else { return };
    let stdio = Stdio { main: Some(1), stdin: true, stderr: None };
    agent.create_in("c", shell("trap '' TERM; sleep 1000"), layers(Upper::None), stdio).unwrap();
    agent.start_container("c").unwrap();
    agent.close();
    assert_eq!(agent.ended().0, End::PowerOff);
}

#[test]
fn nobody_to_connect_to_is_a_panic() {
    let Some(parts) = parts() else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let mut guest = Guest::boot(parts, &dir.path().join("agent"), &[]);
    assert_eq!(guest.end(), End::Panic);
}

/// Limits, terminals and joining processes, in a root whose writes stay in memory.
#[test]
fn a_container_in_memory() {
    let Some(mut agent) = boot() else { return };
    let mut spec = shell("sleep 1000");
    spec["linux"]["resources"] = json!({
        "memory": {"limit": 8 << 20, "swap": 8 << 20}, "pids": {"limit": 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100_000},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    spec["process"]["env"].as_array_mut().unwrap().push(json!("HOME=/root"));
    agent.create_in("c", spec, layers(Upper::Tmpfs), Stdio::default()).unwrap();
    agent.start_container("c").unwrap();

    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.weight; \
        mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk; mkdir /tmp/new; grep -c lo: /proc/net/dev; hostname; exit 9";
    agent.exec("c", "look", process(&["sh", "-c", script]), all(10)).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(10).read_to_string(&mut out).unwrap();
    agent.stream(11).read_to_string(&mut err).unwrap();
    assert_eq!(out, "8388608\n20\n50000 100000\n20\n1\ninside\n", "{err}");
    assert!(err.contains("/tmp/disk: Operation not permitted"), "{err}");
    assert!(err.contains("No space left on device"), "{err}");
    assert_eq!(agent.wait("c", Some("look")).status, ExitStatus::Code(9));

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

    // More than the limit, in memory that is a file's.
    let script = "head -c 100000000 /dev/zero > /dev/shm/big";
    agent.exec("c", "eat", process(&["sh", "-c", script]), Stdio::default()).unwrap();
    let eaten = agent.wait("c", Some("eat"));
    assert!(eaten.status != ExitStatus::Code(0), "{eaten:?}");
    agent.kill("c", 9, true).unwrap();
    assert_eq!(agent.wait("c", None).status, ExitStatus::Signal(9));
    agent.delete("c").unwrap();
    let (end, guest) = agent.power_off();
    println!(
        "guest-kernel instructions: init to container, in memory {}",
        guest.instructions(Mark::InitExec, Mark::ContainerExec)
    );
    assert_eq!(end, End::PowerOff);
}
