//! SIGKILL at every step of a verb: afterwards `state` tells the truth, `delete --force` leaves nothing, and a neighbour
//! notices nothing. Steps are system calls, at which strace kills whoever makes them.

use std::{fs, thread, time::Duration};

use bulkhead_tests::harness::{
    oci::{Bundle, Isolation, Oci, Peer, calls_of, steps_of},
    signal_process,
};
use rustix::process::Signal;

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

/// The caller of create, at moments of the boot.
#[test]
fn create_of_a_microvm() {
    let Some(oci) = Oci::new(Isolation::Vm) else { return };
    let mut bundle = oci.bundle("victim");
    bundle.sh("echo program; exec sleep 1000");
    bundle.write();
    let path = bundle.path.display().to_string();
    for delay in [0, 5, 20, 60, 200, 1000, 4000] {
        let create = oci.start(&["create", "--bundle", &path, "victim"]);
        thread::sleep(Duration::from_millis(delay));
        create.signal(Signal::KILL);
        drop(create);
        check_and_clear(&oci, &format!("create killed after {delay} ms"));
    }
    // Whoever is there at that moment: the monitor, then the VMM.
    for (delay, program) in [
        (100, "bulkhead-oci"),
        (2000, "bulkhead-oci"),
        (100, "bulkhead-vmm"),
        (2000, "bulkhead-vmm"),
    ] {
        let create = oci.start(&["create", "--bundle", &path, "victim"]);
        let others = || {
            processes_of(&oci, program)
                .into_iter()
                .filter(|pid| *pid != create.pid())
                .collect::<Vec<_>>()
        };
        oci.wait(program, || !others().is_empty());
        thread::sleep(Duration::from_millis(delay));
        others().into_iter().for_each(|pid| signal_process(pid, Signal::KILL));
        let outcome = create.wait();
        assert_ne!(outcome.code(), 0, "{outcome}");
        assert_eq!(outcome.error_text().lines().count(), 1, "{outcome}");
        check_and_clear(&oci, &format!("{program} killed after {delay} ms"));
    }
}

/// The monitor and the VMM of containers that are created, run, or are paused.
#[test]
fn a_microvm_that_is_there() {
    let Some(oci) = Oci::new(Isolation::Vm) else { return };
    let mut bundle = oci.bundle("victim");
    bundle.sh("echo program; exec sleep 1000");
    for (state, who) in [
        ("created", "monitor"),
        ("created", "vmm"),
        ("running", "monitor"),
        ("running", "vmm"),
        ("paused", "vmm"),
    ] {
        oci.create("victim", &bundle);
        if state != "created" {
            oci.run(&["start", "victim"]).assert_code(0);
        }
        if state == "paused" {
            oci.run(&["pause", "victim"]).assert_code(0);
        }
        let victims =
            if who == "vmm" { processes_of(&oci, "bulkhead-vmm") } else { vec![oci.pid("victim")] };
        assert!(!victims.is_empty(), "{who} of a {state} container");
        victims.into_iter().for_each(|pid| signal_process(pid, Signal::KILL));
        oci.wait_for_status("victim", "stopped");
        oci.wait("the VMM's end", || processes_of(&oci, "bulkhead-vmm").is_empty());
        check_and_clear(&oci, &format!("{who} of a {state} container killed"));
    }
}

/// Callers of verbs, killed at steps, in one container that goes on; then those of start and delete.
#[test]
fn verbs_of_a_microvm() {
    let Some(oci) = Oci::new(Isolation::Vm) else { return };
    let mut bundle = oci.bundle("victim");
    bundle.sh("echo program; exec sleep 1000");
    oci.create("victim", &bundle);
    let start = oci.command(&["start", "victim"]);
    let calls = calls_of(&oci, &start);
    for verb in ["exec", "pause", "resume", "kill", "update"] {
        let command = match verb {
            "kill" => oci.command(&["kill", "victim", "WINCH"]),
            verb => oci.command(&arguments(verb, "")),
        };
        if verb == "resume" {
            oci.run(&["pause", "victim"]).assert_code(0);
        }
        let calls = calls_of(&oci, &command);
        for step in steps_of(&calls, 6, &["sendmsg", "connect"]) {
            step.inject(&oci, &command);
            assert_eq!(untruth(&oci, "victim"), None, "{verb}, {step}");
            // It goes on, whatever was half done.
            if oci.status("victim") == "paused" {
                oci.run(&["resume", "victim"]).assert_code(0);
            }
            assert_eq!(oci.status("victim"), "running", "{verb}, {step}");
            if verb == "resume" {
                oci.run(&["pause", "victim"]).assert_code(0);
            }
        }
        if verb == "resume" {
            oci.run(&["resume", "victim"]).assert_code(0);
        }
        oci.start(&["exec", "victim", "true"]).wait().assert_clean();
    }
    check_and_clear(&oci, "verbs");
    let steps = steps_of(&calls, 3, &[]);
    for step in &steps {
        oci.create("victim", &bundle);
        step.inject(&oci, &oci.command(&["start", "victim"]));
        assert_eq!(untruth(&oci, "victim"), None, "start, {step}");
        let delete = oci.command(&["delete", "--force", "victim"]);
        step.inject(&oci, &delete);
        check_and_clear(&oci, &format!("start and delete, {step}"));
    }
}

/// Processes of the test whose program's name ends so.
fn processes_of(oci: &Oci, program: &str) -> Vec<u32> {
    let has_name = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).next().unwrap_or_default().ends_with(program.as_bytes())
    };
    oci.processes().into_iter().filter(has_name).collect()
}

#[track_caller]
fn check_and_clear(oci: &Oci, what: &str) {
    assert_eq!(untruth(oci, "victim"), None, "{what}");
    let deleted = oci.run(&["delete", "--force", "victim"]);
    assert_eq!(deleted.code(), 0, "{what}: {deleted}");
    for _ in 0..300 {
        if oci.leftovers().is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: left: {:?}", oci.leftovers());
}
