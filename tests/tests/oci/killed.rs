//! SIGKILL at every step of a verb: afterwards `state` tells the truth, `delete --force` leaves nothing, and a neighbour
//! notices nothing. Steps are system calls, at which strace kills whoever makes them: the command, or, where it makes a microVM,
//! its monitor or its VMM.

use std::{fs, thread, time::Duration};

use bulkhead_tests::harness::oci::{Bundle, Isolation, Oci, Peer, calls_of, steps_of};

/// Calls at which each one is a step, since something of the host changes there.
const ALWAYS: [&str; 16] = [
    "mount",
    "move_mount",
    "fsmount",
    "umount2",
    "pivot_root",
    "clone3",
    "unshare",
    "setns",
    "rename",
    "renameat",
    "unlinkat",
    "mkdirat",
    "bind",
    "sendmsg",
    "execve",
    "linkat",
];

/// The same for a microVM, a clone: each step takes a start.
const ALWAYS_VM: [&str; 3] = ["clone3", "execve", "renameat"];

/// Whether the process of the container is there, by what the kernel says.
fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// What is wrong with what `state` says of a container whose program writes "program".
fn untruth(oci: &Oci, id: &str) -> Option<String> {
    let outcome = oci.run(&["state", id]);
    if !outcome.status.success() {
        let error = outcome.error_text();
        return (!error.contains("does not exist") || error.lines().count() != 1)
            .then(|| format!("state: {outcome}"));
    }
    let Ok(state) = serde_json::from_slice::<serde_json::Value>(&outcome.stdout) else {
        return Some(format!("state: {outcome}"));
    };
    let pid = u32::try_from(state["pid"].as_u64().unwrap_or(0)).unwrap_or(0);
    let (status, alive) = (state["status"].as_str().unwrap_or_default(), pid != 0 && is_alive(pid));
    match status {
        "creating" => None,
        "created" | "running" | "paused" if !alive => {
            Some(format!("{status}, but its process is gone: {state}"))
        }
        "stopped" if alive => Some(format!("stopped, but its process lives: {state}")),
        "created" if oci.output(id).contains("program") => {
            Some("created, but the program runs".to_owned())
        }
        "created" | "running" | "paused" | "stopped" => None,
        other => Some(format!("the status is {other}")),
    }
}

/// A container beside those that are killed.
struct Neighbour {
    oci: Oci,
    pid: u32,
}

impl Neighbour {
    fn new(peer: Peer) -> Self {
        let oci = Oci::with(peer);
        let mut bundle = oci.bundle("neighbour");
        bundle.sh("echo here; exec sleep 100000");
        oci.create_and_start("neighbour", &bundle);
        let pid = oci.pid("neighbour");
        Self { oci, pid }
    }

    fn is_well(&self) -> bool {
        is_alive(self.pid)
    }
}

/// What brings a container to the state before a verb.
fn prepare(oci: &Oci, bundle: &Bundle, verb: &str) {
    fs::remove_file(oci.path("victim.out")).ok();
    if verb == "create" {
        bundle.write();
        return;
    }
    oci.create("victim", bundle);
    if verb == "start" {
        return;
    }
    oci.run(&["start", "victim"]).assert_code(0);
    oci.wait_for_output("victim", "program");
    match verb {
        "resume" => drop(oci.run(&["pause", "victim"]).assert_code(0)),
        "delete" => {
            oci.run(&["kill", "victim", "KILL"]).assert_code(0);
            oci.wait_for_status("victim", "stopped");
        }
        _ => {}
    }
}

fn arguments<'a>(verb: &'a str, bundle: &'a str) -> Vec<&'a str> {
    match verb {
        "create" => vec!["create", "--bundle", bundle, "victim"],
        "exec" => vec!["exec", "victim", "true"],
        "delete-force" => vec!["delete", "--force", "victim"],
        "kill" => vec!["kill", "victim", "TERM"],
        "update" => vec!["update", "--pids-limit", "50", "victim"],
        verb => vec![verb, "victim"],
    }
}

/// Each step of one verb, as many as this over all its calls and those that count always.
fn each_step(isolation: Isolation, verb: &str, most: usize) {
    let always: &[&str] = match isolation {
        Isolation::Host => &ALWAYS,
        Isolation::Vm => &ALWAYS_VM,
    };
    let Some(oci) = Oci::new(isolation) else { return };
    // In a microVM it would wait for the slot that this test has.
    let neighbour = Neighbour::new(match isolation {
        Isolation::Host => oci.peer(),
        Isolation::Vm => Peer::Bulkhead(Isolation::Host),
    });
    let mut bundle = oci.bundle("victim");
    bundle.sh("echo program; exec sleep 1000");
    let path = bundle.path.display().to_string();
    let command = || {
        let mut command = oci.command(&arguments(verb, &path));
        // A boot in place of a clone that was killed takes too long to be had at each step.
        command.env("BULKHEAD_TEMPLATE", "require");
        command
    };
    prepare(&oci, &bundle, verb);
    let calls = calls_of(&oci, &command());
    oci.run(&["delete", "--force", "victim"]).assert_code(0);
    oci.assert_nothing_left();
    let steps = steps_of(&calls, most, always);
    assert!(steps.len() > 10, "{} calls of {verb} were traced", calls.len());
    let mut wrong = Vec::new();
    for step in &steps {
        prepare(&oci, &bundle, verb);
        step.inject(&oci, &command());
        wrong.extend(untruth(&oci, "victim").map(|what| format!("{step}: {what}")));
        let deleted = oci.run(&["delete", "--force", "victim"]);
        if !deleted.status.success() {
            wrong.push(format!("{step}: {deleted}"));
        }
        let left = settled(&oci);
        if !left.is_empty() {
            wrong.push(format!("{step}: left: {left:?}"));
            oci.clear();
        }
        if !neighbour.is_well() {
            wrong.push(format!("{step}: the neighbour is gone"));
            break;
        }
    }
    assert!(
        wrong.is_empty(),
        "{verb}: {} of {} steps:\n{}",
        wrong.len(),
        steps.len(),
        wrong.join("\n")
    );
    assert_eq!(neighbour.oci.status("neighbour"), "running");
    neighbour.oci.start(&["exec", "neighbour", "true"]).wait().assert_clean();
    neighbour.oci.delete_force("neighbour");
    neighbour.oci.assert_nothing_left();
    oci.assert_nothing_left();
}

/// What is left after some time to go.
fn settled(oci: &Oci) -> Vec<String> {
    for _ in 0..3000 {
        oci.reap_adopted();
        if oci.leftovers().is_empty() {
            return Vec::new();
        }
        thread::sleep(Duration::from_millis(10));
    }
    oci.leftovers()
}

#[test]
fn create_on_the_host() {
    each_step(Isolation::Host, "create", 80);
}

#[test]
fn start_on_the_host() {
    each_step(Isolation::Host, "start", 40);
}

#[test]
fn exec_on_the_host() {
    each_step(Isolation::Host, "exec", 60);
}

#[test]
fn pause_and_resume_on_the_host() {
    each_step(Isolation::Host, "pause", 25);
    each_step(Isolation::Host, "resume", 25);
}

#[test]
fn kill_and_update_on_the_host() {
    each_step(Isolation::Host, "kill", 25);
    each_step(Isolation::Host, "update", 25);
}

#[test]
fn delete_on_the_host() {
    each_step(Isolation::Host, "delete", 40);
    each_step(Isolation::Host, "delete-force", 40);
}

#[test]
fn create_in_a_microvm() {
    each_step(Isolation::Vm, "create", 20);
}

#[test]
fn start_in_a_microvm() {
    each_step(Isolation::Vm, "start", 16);
}

#[test]
fn exec_in_a_microvm() {
    each_step(Isolation::Vm, "exec", 14);
}

#[test]
fn delete_in_a_microvm() {
    each_step(Isolation::Vm, "delete-force", 14);
}
