//! Clones of a template, and the figures of clones and of machines that boot.

use std::{fs, io::Read, path::PathBuf, time::Duration};

use bulkhead_protocol::{Awaken, Call, ExitStatus, Prepare, Reply, Upper};
use bulkhead_vmm::api::{End, Mark};

use crate::{
    create, layers, shared,
    support::{Agent, erofs, ext4, make_root, parts, shell},
};

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

/// A line for each step, as `steps.sh` shows them.
fn tell(what: &str, steps: &[(&str, u64)]) {
    let mut before = 0;
    for (step, count) in steps {
        println!("guest-kernel instructions, {what}, {step}: {}", count - before);
        before = *count;
    }
    println!("guest-kernel instructions, {what}, in all: {before}");
}
