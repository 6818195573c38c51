//! Files that a guest makes, looks at and reads: on a block device as a container of an image has it (overlayfs of EROFS and
//! ext4), and over virtio-fs as a bundle's root file system and a bind mount are. One guest does it all, in one run.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use bulkhead_tests::harness::{binary, guest_kernel, probe};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    Reason,
    facts::software_kvm,
    guest::{MEMORY, lines_of, wait_for},
    peers::ask,
    report::{Report, Table, Unit},
};

/// Files that are there already; the guest reads that many.
const FILES: usize = 50;
/// The guest's names of its places, and what they are.
const PLACES: [(&str, &str); 3] = [
    ("block", "block: EROFS and ext4, overlayfs"),
    ("auto", "virtio-fs, cached for a second (root file systems)"),
    ("none", "virtio-fs, never cached (bind mounts)"),
];
/// The guest's names of its steps, and what they are.
const STEPS: [(&str, &str); 4] = [
    ("create", "created and written, 4 KiB"),
    ("stat", "stat'ed, first look"),
    ("read", "opened, read, closed, 4 KiB, first time"),
    ("again", "opened, read, closed, 4 KiB, once more"),
];

/// What one step cost.
struct Cost {
    /// Files a second of the guest's clock.
    rate: f64,
    /// Guest-kernel instructions for a file.
    instructions: f64,
    /// Requests to the file server for a file.
    requests: f64,
}

pub(super) fn compare(report: &mut Report) {
    let costs = match costs() {
        Ok(costs) => costs,
        Err(reason) => return report.fail("files of a guest", &reason),
    };
    let columns = PLACES.iter().map(|(_, what)| (*what).to_owned()).collect();
    let title = format!("Files of one guest in one run, {FILES} each");
    let mut table = Table::new(&title, columns);
    let mut rows = |what: &str, unit: Unit, get: fn(&Cost) -> f64| {
        for (step, meaning) in STEPS {
            let sample = |place| costs.get(&(place, step)).map(get).into_iter().collect();
            let samples = PLACES.iter().map(|(place, _)| sample(*place)).collect();
            table.add(&format!("{what} {meaning}"), unit, samples);
        }
    };
    rows("files a second:", Unit::Count, |cost| cost.rate);
    if software_kvm() {
        rows("guest-kernel instructions a file:", Unit::Count, |cost| cost.instructions);
    }
    rows("requests to the host's file server a file:", Unit::Ratio, |cost| cost.requests);
    report.add_table(table);
}

fn costs() -> Result<HashMap<(&'static str, &'static str), Cost>, Reason> {
    let directory = tempfile::tempdir().map_err(|error| format!("a directory: {error}"))?;
    let control = directory.path().join("vm.sock");
    let config = prepare(&directory)?;
    let file = directory.path().join("vm.json");
    fs::write(&file, config.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut vmm = Command::new(binary("bulkhead-vmm"))
        .arg("--config")
        .arg(&file)
        .arg("--control")
        .arg(&control)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("bulkhead-vmm: {error}"))?;
    let lines = lines_of(&mut vmm);
    let counters = || counters(&control);
    let all = || -> Result<_, Reason> {
        let mut costs = HashMap::new();
        for (place, _) in PLACES {
            let mut idle = (0.0, 0.0);
            for step in ["nothing"].into_iter().chain(STEPS.map(|(step, _)| step)) {
                wait_for(&lines, &format!("begin {place} {step}"))?;
                let before = counters()?;
                let (_, said) = wait_for(&lines, &format!("end {place} {step} "))?;
                let after = counters()?;
                let spent = (after.0 - before.0, after.1 - before.1);
                if step == "nothing" {
                    idle = spent;
                    continue;
                }
                let numbers: Vec<f64> =
                    said.split(' ').filter_map(|word| word.parse().ok()).collect();
                let [count, micros] = numbers[..] else {
                    return Err(format!("the guest said {said}"));
                };
                let cost = Cost {
                    rate: 1e6 * count / micros,
                    instructions: (spent.0 - idle.0).max(0.0) / count,
                    requests: (spent.1 - idle.1).max(0.0) / count,
                };
                costs.insert((place, step), cost);
            }
        }
        Ok(costs)
    };
    let costs = all();
    // The guest may have ended already.
    let _ = vmm.kill();
    let _ = vmm.wait();
    costs
}

/// Guest-kernel instructions and requests to the file server by now.
fn counters(control: &Path) -> Result<(f64, f64), Reason> {
    let answer = ask(control, &[json!({"id": 1, "kind": "counters"})]);
    let answer = answer.map_err(|error| format!("the VMM's counters: {error}"))?;
    let number = |name| {
        crate::peers::find_number(&answer, name).ok_or_else(|| format!("no {name} in {answer}"))
    };
    Ok((number("instructions")?, number("share_requests")?))
}

/// The guest's disks and shares, and its configuration.
fn prepare(directory: &TempDir) -> Result<serde_json::Value, Reason> {
    let failed = |error: std::io::Error| format!("the guest's files: {error}");
    // A share's path has no symbolic link in it.
    let base = directory.path().canonicalize().map_err(failed)?;
    let (tree, root, disk) = (base.join("tree"), base.join("root"), base.join("disk"));
    for name in ["dev", "proc", "disk", "block", "auto", "none", "image"] {
        fs::create_dir_all(tree.join(name)).map_err(failed)?;
    }
    fs::copy(probe(), tree.join("bench-init")).map_err(failed)?;
    let shared = ["auto", "none"].map(|tag| base.join(tag));
    for place in shared.iter().chain([&tree.join("image")]) {
        fs::create_dir_all(place).map_err(failed)?;
        for number in 0..FILES {
            fs::write(place.join(number.to_string()), [2; 4096]).map_err(failed)?;
        }
    }
    fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).map_err(failed)?;
    run(Command::new("mkfs.erofs").arg(&root).arg(&tree))?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk))?;
    let share = |tag: &str, path: &Path| json!({"tag": tag, "cache": tag, "entries": [{"name": "tree", "path": path, "read_only": false}]});
    let [auto, none] = &shared;
    Ok(json!({
        "kernel": guest_kernel(),
        "memory_mib": MEMORY,
        "serial": "stdout",
        "cmdline": "quiet root=/dev/vda rootfstype=erofs ro init=/bench-init files=1",
        "disks": [
            {"id": "root", "files": [root], "read_only": true},
            {"id": "disk", "files": [disk], "read_only": false},
        ],
        "shares": [share("auto", auto), share("none", none)],
    }))
}

fn run(command: &mut Command) -> Result<(), Reason> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
