//! Daemons and shims that are killed or replaced while containers run.

use std::{fs, path::Path};

use bulkhead_tests::harness::{
    binary,
    containerd::{Containerd, PROGRAM},
    oci::Oci,
    signal_process,
};
use rustix::process::Signal;

isolations!(a_daemon_is_killed, a_shim_is_killed, a_program_is_replaced);

fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// What runs goes on, what ends meanwhile is told later, and execs work before and after.
fn a_daemon_is_killed(oci: &Oci) {
    let mut containerd = Containerd::new(oci);
    containerd.endless(&[], "stays");
    containerd.endless(&[], "ends");
    let (stays, ends) = (containerd.task("stays").unwrap().0, containerd.task("ends").unwrap().0);
    containerd.kill();
    signal_process(ends, Signal::TERM);
    oci.wait("the end of a container", || !is_alive(ends));
    assert!(is_alive(stays));
    let exits = |containerd: &Containerd<'_>| containerd.logged().matches("/tasks/exit").count();
    let before = exits(&containerd);
    containerd.start();
    assert_eq!(containerd.task("stays").unwrap(), (stays, "RUNNING".into()));
    containerd.wait_for_state("ends", "STOPPED");
    oci.wait("the event of its end", || exits(&containerd) > before);
    let removed = containerd.run(&["task", "rm", "ends"]);
    assert!(removed.error_text().contains("exit code 5"), "{removed}");
    containerd.text(&["container", "rm", "ends"]);
    containerd.exec("after", "stays", "exit 4").assert_code(4);
    containerd.remove("stays");
}

/// Its container ends, containerd removes all of it, and another one is untouched.
fn a_shim_is_killed(oci: &Oci) {
    let containerd = Containerd::new(oci);
    containerd.endless(&[], "victim");
    containerd.endless(&[], "other");
    let (victim, other) =
        (containerd.task("victim").unwrap().0, containerd.task("other").unwrap().0);
    signal_process(containerd.shim_pid("victim"), Signal::KILL);
    oci.wait("the container's end", || !is_alive(victim));
    oci.wait("its task's end", || {
        containerd.task("victim").is_none_or(|(_, state)| state == "STOPPED")
    });
    containerd.run(&["task", "rm", "victim"]);
    containerd.text(&["container", "rm", "victim"]);
    assert_eq!(containerd.task("other").unwrap(), (other, "RUNNING".into()));
    containerd.exec("after", "other", "exit 4").assert_code(4);
    containerd.remove("other");
}

/// The old one goes on with its containers, the new one has the new ones.
fn a_program_is_replaced(oci: &Oci) {
    if !oci.is_bulkhead() {
        eprintln!("SKIPPED: the program of the distribution is not replaced");
        return;
    }
    let containerd = Containerd::new(oci);
    containerd.endless(&[], "old");
    let bin = oci.path("bin");
    fs::copy(binary(PROGRAM), bin.join("new")).unwrap();
    fs::rename(bin.join("new"), bin.join(PROGRAM)).unwrap();
    containerd.endless(&[], "new");
    let program = |id: &str| {
        let link = format!("/proc/{}/exe", containerd.shim_pid(id));
        fs::read_link(Path::new(&link)).unwrap().display().to_string()
    };
    assert!(program("old").ends_with("(deleted)") && !program("new").ends_with("(deleted)"));
    for id in ["old", "new"] {
        containerd.exec("one", id, "exit 4").assert_code(4);
        containerd.remove(id);
    }
}
