//! The agent's way from a request to the program's execve: its system calls, counted by `agent/tests/syscalls.sh` with the
//! engine as it is in a guest (first process, one hierarchy of cgroup v2), and the guest kernel's instructions by step, counted by
//! `agent/tests/steps.sh` in machines that boot and in clones.

use std::{path::Path, process::Command};

use bulkhead_tests::harness::{binary, guest_kernel};

use crate::{
    Reason,
    facts::software_kvm,
    report::{Report, Unit},
};

/// The line before the count.
const COUNT: &str = "system calls from the request to the program: ";

pub(super) fn count(report: &mut Report, trace: bool) {
    for (request, what) in [("create", "a container"), ("exec", "an exec")] {
        let figure = format!("agent's system calls, request for {what} to its program");
        match counted(request) {
            Ok((count, listing)) => {
                let how = format!(
                    "strace, `agent/tests/syscalls.sh {request}`; with -l, or `bench lifecycle --trace`, it lists them"
                );
                report.add(&figure, Unit::Count, &[count], &how);
                if trace {
                    println!("{figure}:\n{listing}");
                }
            }
            Err(reason) => report.fail(&figure, &reason),
        }
    }
}

/// Guest-kernel instructions by step.
pub(super) fn steps(report: &mut Report) {
    const FIGURE: &str = "guest-kernel instructions by step";
    if !software_kvm() {
        return report.note(FIGURE, "KVM counts them only where it interprets them");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/steps.sh");
    let output = Command::new(&script)
        .env("BULKHEAD_VMM", binary("bulkhead-vmm"))
        .env("BULKHEAD_KERNEL", guest_kernel())
        .env("BULKHEAD_INITRD", binary("bulkhead-initrd.cpio"))
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            return report.fail(FIGURE, &format!("steps.sh: {}", errors.trim()));
        }
        Err(error) => return report.fail(FIGURE, &format!("{}: {error}", script.display())),
    };
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let steps: Vec<_> = lines.lines().filter_map(step).collect();
    if steps.is_empty() {
        return report.fail(FIGURE, "steps.sh printed none");
    }
    for (step, count) in steps {
        report.add(step, Unit::Instructions, &[count], "`agent/tests/steps.sh`");
    }
}

/// `guest-kernel instructions, clone, disks, created: 1234`.
fn step(line: &str) -> Option<(&str, f64)> {
    let (step, count) = line.rsplit_once(": ")?;
    Some((step, count.parse().ok()?))
}

/// The number of calls, and all of them with a summary.
fn counted(request: &str) -> Result<(f64, String), Reason> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/syscalls.sh");
    let output = Command::new(&script).args(["-l", request]).output();
    let output = output.map_err(|error| format!("{}: {error}", script.display()))?;
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = listing.lines().find_map(|line| line.strip_prefix(COUNT)?.parse().ok());
    match count {
        Some(count) if output.status.success() => Ok((count, listing)),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = errors.lines().rev().find(|line| !line.is_empty()).unwrap_or("no output");
            Err(format!("syscalls.sh {request}: {last}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_name_and_a_count() {
        let line = "guest-kernel instructions, boot, share, created: 1700000";
        assert_eq!(
            step(line),
            Some(("guest-kernel instructions, boot, share, created", 1_700_000.0))
        );
        assert_eq!(step("test clones ... ok"), None);
    }
}
