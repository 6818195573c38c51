//! SIGKILL at every step of a verb: afterwards `state` tells the truth, `delete --force` leaves nothing, and a neighbour
//! notices nothing. Steps are system calls, at which strace kills whoever makes them.

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

/// Each step of one verb in host isolation.
fn each_step(verb: &str, most: usize) {
    let Some(oci) = Oci::new(Isolation::Host) else { return };
    let neighbour = Neighbour::new(oci.peer());
    let mut bundle = oci.bundle("victim");
    bundle.sh("echo program; exec sleep 1000");
    let path = bundle.path.display().to_string();
    let command = || oci.command(&arguments(verb, &path));
    prepare(&oci, &bundle, verb);
    let calls = calls_of(&oci, &command());
    oci.run(&["delete", "--force", "victim"]).assert_code(0);
    oci.assert_nothing_left();
    let steps = steps_of(&calls, most, &ALWAYS);
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
    for _ in 0..100 {
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
    each_step("create", 80);
}

#[test]
fn start_on_the_host() {
    each_step("start", 40);
}

#[test]
fn exec_on_the_host() {
    each_step("exec", 60);
}

#[test]
fn pause_and_resume_on_the_host() {
    each_step("pause", 25);
    each_step("resume", 25);
}

#[test]
fn kill_and_update_on_the_host() {
    each_step("kill", 25);
    each_step("update", 25);
}

#[test]
fn delete_on_the_host() {
    each_step("delete", 40);
    each_step("delete-force", 40);
}
