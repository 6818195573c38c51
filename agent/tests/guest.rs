//! The agent as the first process of a guest. `BULKHEAD_VMM`, `BULKHEAD_KERNEL` and `BULKHEAD_INITRD` say of what the guest
//! is made; `BULKHEAD_SERIAL` names a file for its console.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use bulkhead_protocol::{
    Awaken, Call, Create, ExitStatus, Lower, Prepare, Reply, Root, Stdio, Upper,
};
use bulkhead_vmm::api::{End, Mark};
use serde_json::{Value, json};
use support::{Agent, Guest, Origin, all, erofs, ext4, make_root, parts, process, shell};

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
    awakens(&mut agent);
    let upper = Upper::Ext4 { device: PathBuf::from("/dev/vdb") };
    let stdio = Stdio { main: Some(1), stdin: false, stderr: Some(2) };
    let spec =
        shell("echo $$ $(hostname) $(date +%Y); echo x > /file && cat /file; echo err >&2; exit 3");
    agent.create_in("c", spec, layers(upper), stdio).unwrap();
    agent.start_container("c").unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(1).read_to_string(&mut out).unwrap();
    agent.stream(2).read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("1 inside 2033\nx\n", "err\n"));
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

/// The kernel's generator and clock follow what the monitor says; the nonce comes back.
fn awakens(agent: &mut Agent) {
    let awaken = |seed: &str| {
        let seed = seed.repeat(128 / seed.len());
        Call::Awaken(Awaken { seed, realtime_ns: 2_000_000_000_000_000_000 })
    };
    let nonce = |reply| match reply {
        Reply::Awake { nonce } => nonce,
        other => panic!("{other:?}"),
    };
    assert_eq!(nonce(agent.call(awaken("0f")).unwrap()), None);
    let prepare = |nonce: &str| {
        Call::Prepare(Box::new(Prepare {
            nonce: nonce.to_owned(),
            specs: Vec::new(),
            shares: Vec::new(),
        }))
    };
    agent.call(prepare("0123")).unwrap_err();
    let digits = "0123456789abcdef".repeat(2);
    agent.call(prepare(&digits)).unwrap();
    let failure = agent.call(awaken("0")).map(nonce);
    assert_eq!(failure.unwrap(), Some(digits));
    agent.call(Call::Awaken(Awaken { seed: "12".to_owned(), realtime_ns: 0 })).unwrap_err();
}

fn prepare(nonce: &str, specs: Vec<Value>) -> Call {
    Call::Prepare(Box::new(Prepare { nonce: nonce.to_owned(), specs, shares: Vec::new() }))
}

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
    let stdio = Stdio { main: Some(1), stdin: false, stderr: Some(2) };
    let reply = agent.create_in("c", spec.clone(), layers(Upper::Tmpfs), stdio).unwrap();
    let Reply::Process { ahead, .. } = reply else { panic!("{reply:?}") };
    agent.start_container("c").unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(1).read_to_string(&mut out).unwrap();
    agent.stream(2).read_to_string(&mut err).unwrap();
    let status = agent.wait("c", None).status;
    agent.delete("c").unwrap();
    (ahead, (out, err, status))
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
    case("without a cgroup namespace", Some(6), &|spec| without_cgroup_namespace(spec), true);
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

fn without_cgroup_namespace(spec: &mut Value) {
    without_namespace(spec, "cgroup");
}

fn awaken(seed: u8) -> Call {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let realtime_ns = now.as_nanos().try_into().unwrap();
    Call::Awaken(Awaken { seed: format!("{seed:02x}").repeat(64), realtime_ns })
}

/// Clones of one template differ in all that is random, and have the time; they run containers from disks and from a share.
#[test]
fn clones() {
    let Some(parts) = parts() else { return };
    let nonce = "0123456789abcdef".repeat(2);
    let expected = Prepare {
        nonce: nonce.clone(),
        specs: vec![shell("true")],
        shares: vec!["root".to_owned()],
    };
    let template = Agent::template(parts.clone(), expected);
    let root = make_root(template.dir.path().join("root"));
    let lower = template.dir.path().join("lower");
    erofs(&root, &lower);
    let script = "cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | md5sum; \
        date +%s; cat /in-root";
    fs::write(root.join("in-root"), "shared\n").unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..2 {
        let upper = template.dir.path().join(format!("upper{seed}"));
        ext4(&upper, &template.dir.path().join(format!("content{seed}")));
        let disks = [lower.clone(), upper];
        let mut agent = Agent::clone_of(&template, parts.clone(), &disks, Some(&root));
        let mut steps = vec![("restored", agent.guest().settle())];
        // The same bytes for both: the virtual machines still differ in what their kernels have gathered.
        let reply = agent.call(awaken(seed)).unwrap();
        assert!(matches!(reply, Reply::Awake { nonce: Some(said) } if said == nonce));
        let awake = agent.guest().settle();
        steps.push(("awake", awake));
        if seed == 0 {
            std::thread::sleep(Duration::from_secs(10));
            let idle = agent.instructions();
            println!("guest-kernel instructions, clone, 10 seconds of idleness: {}", idle - awake);
            steps = steps.iter().map(|(step, count)| (*step, count + idle - awake)).collect();
        }
        let create = if seed == 0 {
            let upper = Upper::Ext4 { device: PathBuf::from("/dev/vdb") };
            create(layers(upper), None, script)
        } else {
            create(shared(), Some("root"), script)
        };
        agent.call(create).unwrap();
        steps.push(("created", agent.guest().settle()));
        agent.start_container("c").unwrap();
        let mut out = String::new();
        agent.stream(1).read_to_string(&mut out).unwrap();
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), if seed == 0 { 4 } else { 5 }, "{out}");
        for line in &lines[..3] {
            assert!(seen.insert((*line).to_owned()), "{line} was there before");
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(now.as_secs().abs_diff(lines[3].parse().unwrap()) < 60, "{out}");
        let (end, guest) = agent.power_off();
        assert_eq!(end, End::PowerOff);
        steps.push((FIRST, guest.at(Mark::ContainerExec)));
        tell(if seed == 0 { "clone, disks" } else { "clone, share" }, &steps);
    }
}

/// The same container in machines that boot, for the figures.
#[test]
fn containers_of_machines_that_boot() {
    let Some(parts) = parts() else { return };
    for (what, create) in [
        (
            "boot, disks",
            create(layers(Upper::Ext4 { device: PathBuf::from("/dev/vdb") }), None, "exit 3"),
        ),
        ("boot, share", create(shared(), Some("root"), "exit 3")),
    ] {
        let mut agent = Agent::boot_with_all(parts.clone(), |dir| {
            let root = make_root(dir.join("root"));
            let (lower, upper) = (dir.join("lower"), dir.join("upper"));
            erofs(&root, &lower);
            ext4(&upper, &dir.join("content"));
            (vec![lower, upper], root)
        });
        let mut steps = vec![("agent ready", agent.guest().settle())];
        agent.call(create).unwrap();
        steps.push(("created", agent.guest().settle()));
        agent.start_container("c").unwrap();
        assert_eq!(agent.wait("c", None).status, ExitStatus::Code(3));
        let (end, guest) = agent.power_off();
        assert_eq!(end, End::PowerOff);
        steps.push((FIRST, guest.at(Mark::ContainerExec)));
        tell(what, &steps);
    }
}

const FIRST: &str = "program's first instruction";

/// What is written goes into a directory of the host, in overlayfs's own form.
#[test]
fn a_root_over_a_directory_of_the_host() {
    let Some(parts) = parts() else { return };
    let script = "set -e; cd /work; echo new > new; echo more >> changed; rm gone; rm -r closed; mkdir closed; echo x > closed/x; \
        mv moved elsewhere; ln changed again; ln -s changed link; chmod 700 mode; mkdir -p deep/er; mv deep far; \
        mkfifo pipe; dd if=/dev/zero of=big bs=64k count=2 2>/dev/null; sync; \
        ls; ls closed; cat changed elsewhere; stat -c %a mode; grep ' / ' /proc/mounts";
    let mut agent = Agent::boot_with_all(parts, |dir| {
        let root = make_root(dir.join("root"));
        for directory in ["closed", "mode"] {
            fs::create_dir_all(root.join("work").join(directory)).unwrap();
        }
        for name in ["changed", "gone", "moved", "closed/old"] {
            fs::write(root.join("work").join(name), format!("{name}\n")).unwrap();
        }
        let lower = dir.join("lower");
        erofs(&root, &lower);
        let snapshot = dir.join("snapshot");
        for directory in ["fs", "work"] {
            fs::create_dir_all(snapshot.join(directory)).unwrap();
        }
        (vec![lower], snapshot)
    });
    let shared = PathBuf::from("/run/bulkhead/shares/root/root");
    let upper = Upper::Directory { upper: shared.join("fs"), work: shared.join("work") };
    agent.call(create(layers(upper), Some("root"), script)).unwrap();
    agent.start_container("c").unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    agent.stream(1).read_to_string(&mut out).unwrap();
    agent.stream(2).read_to_string(&mut err).unwrap();
    assert_eq!(err, "");
    let listed = "again\nbig\nchanged\nclosed\nelsewhere\nfar\nlink\nmode\nnew\npipe\nx\n";
    assert!(
        out.starts_with(&format!("{listed}changed\nmore\nmoved\n700\noverlay / overlay rw")),
        "{out}"
    );
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(0));
    let written = agent.dir.path().join("snapshot/fs/work");
    let (end, _) = agent.power_off();
    assert_eq!(end, End::PowerOff);
    let kind = |name: &str| fs::symlink_metadata(written.join(name)).unwrap();
    for hidden in ["gone", "moved"] {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let device = kind(hidden);
        assert!(device.file_type().is_char_device() && device.rdev() == 0, "{hidden}");
    }
    assert_eq!(fs::read_to_string(written.join("changed")).unwrap(), "changed\nmore\n");
    assert_eq!(fs::metadata(written.join("big")).unwrap().len(), 128 << 10);
    let mut value = [0; 1];
    let closed = written.join("closed");
    assert_eq!(rustix::fs::getxattr(&closed, "user.overlay.opaque", &mut value), Ok(1));
    assert_eq!(value, *b"y");
}

/// A line for each step, as `steps.sh` shows them.
fn tell(what: &str, steps: &[(&str, u64)]) {
    let mut before = 0;
    for (step, count) in steps {
        println!("guest-kernel instructions, {what}, {step}: {}", count - before);
        before = *count;
    }
    println!("guest-kernel instructions, {what}, in all: {before}");
}

fn shared() -> Root {
    Root::Directory { path: PathBuf::from("/run/bulkhead/shares/root/root") }
}

fn create(root: Root, share: Option<&str>, script: &str) -> Call {
    Call::Create(Box::new(Create {
        container: "c".to_owned(),
        spec: shell(script),
        root,
        stdio: Stdio { main: Some(1), stdin: false, stderr: Some(2) },
        shares: share.into_iter().map(str::to_owned).collect(),
        bundle: String::new(),
        network: None,
        shared: Vec::new(),
        memory: Vec::new(),
    }))
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
    let mut guest = Guest::start(parts, &dir.path().join("agent"), &[], None, Origin::Boot);
    assert_eq!(guest.end(), End::Panic);
}

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
