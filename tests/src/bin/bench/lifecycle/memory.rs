//! What a running microVM container of `bulkhead-oci` needs on the host beside its guest, and how many guest-kernel
//! instructions lie before its program. Its root file system is the bundle's, over virtio-fs.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use bulkhead_tests::harness::{binary, guest_kernel};
use rustix::process::Pid;
use serde_json::Value;

use super::{
    bundle::Bundle,
    usage::{adopt, wait},
};
use crate::{
    Reason,
    facts::software_kvm,
    proc::{rollup, vmm_of},
    report::{Report, Unit},
    start::resident_beyond_guest,
};

const ID: &str = "bulkhead-bench-vm";

/// One container's figures: KiB and instructions.
struct Running {
    monitor_rss: f64,
    monitor_pss: f64,
    vmm: f64,
    vmm_pss: f64,
    /// To the agent's first instruction, and from there to the program's; `None` where KVM does not count.
    instructions: Option<(f64, f64)>,
}

pub(super) fn measure(report: &mut Report, runs: u8) {
    let all: Result<Vec<Running>, Reason> = (0..runs).map(|_| running()).collect();
    let all = match all {
        Ok(all) => all,
        Err(reason) => return report.fail("microVM container of bulkhead-oci", &reason),
    };
    let each = |get: fn(&Running) -> f64| all.iter().map(get).collect::<Vec<_>>();
    let while_running = "a container of `bulkhead-oci create`, its root file system over virtio-fs, while its program sleeps";
    let how = format!("Rss of the monitor, /proc/PID/smaps_rollup; {while_running}");
    report.add("monitor's resident memory", Unit::Kib, &each(|one| one.monitor_rss), &how);
    let how = "Pss of the same: pages shared with other processes count in part";
    report.add("monitor's proportional memory", Unit::Kib, &each(|one| one.monitor_pss), how);
    let how = format!("Rss of bulkhead-vmm's mappings but the guest's memory; {while_running}");
    report.add(
        "VMM's resident memory, with its file server",
        Unit::Kib,
        &each(|one| one.vmm),
        &how,
    );
    let how = "Pss of all of bulkhead-vmm, the guest's memory included";
    report.add("VMM's and guest's proportional memory", Unit::Kib, &each(|one| one.vmm_pss), how);
    if software_kvm() {
        let (to_agent, to_program): (Vec<_>, Vec<_>) =
            all.iter().filter_map(|one| one.instructions).unzip();
        let how = "KVM's insn_emulation at the kernel's mark, timeline.json of `bulkhead-oci create` and `start`";
        let figure =
            "guest-kernel instructions of a bundle, kernel entry to agent's first instruction";
        report.add(figure, Unit::Instructions, &to_agent, how);
        let figure =
            "guest-kernel instructions of a bundle, from there to the program's first instruction";
        report.add(figure, Unit::Instructions, &to_program, how);
    }
}

fn running() -> Result<Running, Reason> {
    adopt()?;
    let bundle = Bundle::make(&["sleep", "1000"])?;
    let root = bundle.beside("root");
    let oci = |words: &[&str]| -> Result<(), Reason> {
        let errors = bundle.beside("errors");
        let log = fs::File::create(&errors).map_err(|error| format!("a log: {error}"))?;
        let mut command = Command::new(binary("bulkhead-oci"));
        command.args(["--isolation", "vm", "--root"]).arg(&root).args(words);
        command.env("BULKHEAD_KERNEL", guest_kernel()).env("BULKHEAD_TEMPLATE", "never");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let status = command.status().map_err(|error| format!("bulkhead-oci: {error}"))?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&errors).unwrap_or_default();
        Err(format!("bulkhead-oci {}: {}", words.join(" "), said.trim()))
    };
    let (path, pid_file) = (bundle.path().display().to_string(), bundle.beside("pid"));
    let pid_path = pid_file.display().to_string();
    oci(&["create", "--bundle", &path, "--pid-file", &pid_path, ID])?;
    let looked = oci(&["start", ID]).and_then(|()| look(&root.join(ID), &pid_file));
    let ended = oci(&["kill", ID, "KILL"]).and_then(|()| wait(pid_of(&pid_file)?).map(drop));
    oci(&["delete", "--force", ID])?;
    ended.and(looked)
}

fn pid_of(file: &Path) -> Result<Pid, Reason> {
    let text = fs::read_to_string(file).map_err(|error| format!("the pid file: {error}"))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| format!("the pid file says {text}"))
}

fn look(state: &Path, pid_file: &Path) -> Result<Running, Reason> {
    let monitor = pid_of(pid_file)?.as_raw_pid().unsigned_abs();
    let vmm = vmm_of(monitor)?;
    let path = state.join("timeline.json");
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let timeline: Value =
        serde_json::from_slice(&text).map_err(|error| format!("timeline.json: {error}"))?;
    let at = |name: &str| {
        timeline["steps"].as_array()?.iter().find(|step| step["step"] == name)?["instructions"]
            .as_f64()
    };
    let instructions =
        at("agent-entry").zip(at("program-entry")).map(|(agent, program)| (agent, program - agent));
    Ok(Running {
        monitor_rss: rollup(monitor, "Rss")?,
        monitor_pss: rollup(monitor, "Pss")?,
        vmm: resident_beyond_guest(vmm)?,
        vmm_pss: rollup(vmm, "Pss")?,
        instructions,
    })
}
