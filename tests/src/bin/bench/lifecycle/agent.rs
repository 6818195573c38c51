//! The system calls that the agent makes from a request to the program's execve, counted by `agent/tests/syscalls.sh` with
//! the engine as it is in a guest: first process, one hierarchy of cgroup v2.

use std::{path::Path, process::Command};

use crate::{
    Reason,
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
