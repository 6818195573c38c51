//! The state machine and what each verb answers in each state: runc's exit codes, JSON and wording (runtime-spec, runtime.md).

use std::{fs, thread};

use bulkhead_tests::harness::oci::{Bundle, Oci};
use serde_json::{Value, json};

isolations!(host: a_life, verbs_in_wrong_states, lists, run_in_the_foreground, two_creates_of_one_id, ids_and_bundles, delete_by_force, global_options; vm: a_life, verbs_in_wrong_states, lists, run_in_the_foreground, two_creates_of_one_id, ids_and_bundles, delete_by_force, global_options);

/// A bundle whose program says what it is and waits for SIGTERM, then ends with 7.
pub(super) fn waiting(oci: &Oci, name: &str) -> Bundle {
    let mut bundle = oci.bundle(name);
    bundle.sh("trap 'echo bye; exit 7' TERM; echo running $$; while :; do sleep 0.1; done");
    bundle
}

/// create, start, kill, delete with the state after each, the pid file, the adopted process and its exit code.
fn a_life(oci: &Oci) {
    let mut bundle = waiting(oci, "life");
    bundle.config["annotations"] = json!({"org.example.key": "value", "other": ""});
    let pid_file = oci.path("pid");
    oci.create_with("life", &bundle, &["--pid-file", pid_file.to_str().unwrap()]).assert_code(0);
    let state = oci.state("life");
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().parse().expect("a pid and nothing else");
    assert_eq!(state["pid"], pid);
    assert_eq!(state["id"], "life");
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"].as_str().unwrap(), bundle.path.to_str().unwrap());
    assert_eq!(state["annotations"], json!({"org.example.key": "value", "other": ""}));
    assert!(
        state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")),
        "{state}"
    );
    // runc's additions, which tools read.
    assert_eq!(state["rootfs"].as_str().unwrap(), bundle.rootfs().to_str().unwrap());
    assert!(
        state["created"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
        "{state}"
    );
    assert!(state.as_object().unwrap().contains_key("owner"), "{state}");
    assert_eq!(oci.output("life"), "", "the program does not run before start");
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "the pid is a process of the host");
    // What is written after create has no effect.
    bundle.sh("echo another");
    bundle.write();
    oci.run(&["start", "life"]).assert_clean();
    oci.wait_for_output("life", "running 1");
    assert_eq!(oci.status("life"), "running");
    assert_eq!(oci.pid("life"), pid);
    oci.run(&["kill", "life", "TERM"]).assert_clean();
    assert_eq!(oci.exit_code(pid), 7, "the pid's exit code is the container's");
    oci.wait_for_status("life", "stopped");
    let state = oci.state("life");
    // The specification leaves the pid of a stopped container out or at 0.
    assert!(state["pid"].as_u64().unwrap_or(0) == 0, "{state}");
    assert_eq!(oci.output("life"), "running 1\nbye\n");
    oci.run(&["delete", "life"]).assert_clean();
    let outcome = oci.run(&["state", "life"]);
    outcome.assert_code(1);
    assert!(outcome.error_text().contains("does not exist"), "{outcome}");
}

/// Each verb in each state where it is wrong: exit code 1, the words that tools look for, and the state stays.
fn verbs_in_wrong_states(oci: &Oci) {
    let refused = |arguments: &[&str], words: &[&str]| {
        let outcome = oci.run(arguments);
        assert_ne!(outcome.code(), 0, "{outcome}");
        assert_eq!(outcome.text(), "", "{outcome}");
        let error = outcome.error_text();
        assert!(
            words.is_empty() || words.iter().any(|word| error.contains(word)),
            "none of {words:?}: {outcome}"
        );
    };
    for verb in [
        &["start", "none"][..],
        &["kill", "none", "KILL"],
        &["delete", "none"],
        &["pause", "none"],
        &["resume", "none"],
        &["exec", "none", "true"],
        &["ps", "none"],
        &["events", "--stats", "none"],
        &["update", "--pids-limit", "5", "none"],
        &["state", "none"],
    ] {
        refused(verb, &["does not exist"]);
    }
    oci.run(&["delete", "--force", "none"]).assert_code(0);
    let bundle = waiting(oci, "wrong");
    oci.create("wrong", &bundle);
    let again = oci.create_with("wrong", &bundle, &[]);
    assert_ne!(again.code(), 0);
    assert!(again.error_text().contains("exist"), "{again}");
    refused(&["resume", "wrong"], &["not paused"]);
    assert_eq!(oci.status("wrong"), "created");
    oci.run(&["start", "wrong"]).assert_code(0);
    oci.wait_for_output("wrong", "running");
    refused(
        &["start", "wrong"],
        &[
            "cannot start a container that is not created",
            "cannot start an already running container",
        ],
    );
    refused(&["resume", "wrong"], &["not paused"]);
    refused(&["delete", "wrong"], &["cannot delete container wrong that is not stopped: running"]);
    refused(&["kill", "wrong", "NOSUCH"], &["unknown signal", "invalid"]);
    refused(&["kill", "wrong", "99"], &[]);
    oci.run(&["pause", "wrong"]).assert_code(0);
    assert_eq!(oci.status("wrong"), "paused");
    refused(&["pause", "wrong"], &["not running", "not in a state"]);
    refused(&["exec", "wrong", "true"], &["paused"]);
    refused(&["start", "wrong"], &[]);
    refused(&["delete", "wrong"], &["cannot delete container wrong that is not stopped: paused"]);
    oci.run(&["resume", "wrong"]).assert_code(0);
    assert_eq!(oci.status("wrong"), "running");
    oci.run(&["kill", "wrong", "9"]).assert_code(0);
    oci.wait_for_status("wrong", "stopped");
    refused(&["start", "wrong"], &["cannot start a container that has stopped", "stopped"]);
    refused(&["kill", "wrong", "TERM"], &["container not running"]);
    refused(&["exec", "wrong", "true"], &["stopped", "not running"]);
    refused(&["pause", "wrong"], &[]);
    refused(&["resume", "wrong"], &[]);
    assert_eq!(oci.status("wrong"), "stopped");
    oci.run(&["delete", "wrong"]).assert_code(0);
}

/// `list` as a table, as JSON and as ids only.
fn lists(oci: &Oci) {
    let empty = oci.run(&["list", "--format", "json"]);
    empty.assert_clean();
    assert_eq!(
        serde_json::from_slice::<Value>(&empty.stdout)
            .unwrap_or(Value::Null)
            .as_array()
            .map_or(0, Vec::len),
        0
    );
    oci.create("b-one", &waiting(oci, "b-one"));
    if !oci.is_vm() {
        oci.create("a-two", &waiting(oci, "a-two"));
        oci.run(&["start", "a-two"]).assert_code(0);
        oci.run(&["kill", "a-two", "KILL"]).assert_code(0);
        oci.wait_for_status("a-two", "stopped");
    }
    let all = oci.run(&["list", "-f", "json"]);
    let all: Value = serde_json::from_slice(&all.stdout).expect("JSON");
    let ids: Vec<_> =
        all.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids, if oci.is_vm() { vec!["b-one"] } else { vec!["a-two", "b-one"] });
    let one = all.as_array().unwrap().last().unwrap();
    for (key, value) in
        [("status", json!("created")), ("pid", json!(oci.pid("b-one"))), ("owner", json!("root"))]
    {
        assert_eq!(one[key], value, "{key}");
    }
    for key in ["ociVersion", "bundle", "rootfs", "created"] {
        assert!(one[key].is_string(), "{key}: {one}");
    }
    let quiet = oci.run(&["list", "--quiet"]);
    assert_eq!(quiet.text(), if oci.is_vm() { "b-one\n" } else { "a-two\nb-one\n" });
    let table = oci.run(&["list"]).text();
    let heading: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert!(
        table.lines().any(|line| line.starts_with("b-one ") && line.contains(" created ")),
        "{table}"
    );
    assert_ne!(oci.run(&["list", "--format", "yaml"]).code(), 0);
    for id in ids {
        oci.delete_force(id);
    }
}

/// `run`: streams, exit code, a killed program, `--detach`, `--keep`-less cleaning up.
fn run_in_the_foreground(oci: &Oci) {
    let mut bundle = oci.bundle("run");
    bundle.sh("read line; echo got $line; echo problem >&2; exit 42");
    bundle.write();
    let path = bundle.path.display().to_string();
    let mut run = oci.start(&["run", "-b", &path, "run"]);
    run.write(b"words\n");
    let outcome = run.wait();
    outcome.assert_code(42);
    assert_eq!(
        (outcome.text().as_str(), outcome.error_text().as_str()),
        ("got words\n", "problem\n")
    );
    assert_ne!(oci.run(&["state", "run"]).code(), 0, "it is deleted");
    // In the current directory, killed by a signal that is passed on.
    bundle.sh("echo ready; exec sleep 1000");
    bundle.write();
    let mut command = oci.command(&["run", "run"]);
    command.current_dir(&bundle.path);
    let mut run = oci.start_command(command);
    run.wait_for("ready");
    oci.run(&["kill", "run", "SIGKILL"]).assert_code(0);
    run.wait().assert_code(137);
    if oci.is_vm() {
        return;
    }
    bundle.sh("sleep 1000");
    bundle.write();
    let mut command = oci.command(&["run", "--detach", "--bundle", &path, "run"]);
    let outcome = oci.run_command({
        command.current_dir("/");
        command
    });
    outcome.assert_code(0);
    assert_eq!(oci.status("run"), "running");
    oci.delete_force("run");
}

/// Exactly one of them wins. runc 1.1 has a race: a loser may remove the winner's state.
fn two_creates_of_one_id(oci: &Oci) {
    if !oci.is_bulkhead() {
        return;
    }
    let bundle = waiting(oci, "twice");
    bundle.write();
    let path = bundle.path.display().to_string();
    for _ in 0..if oci.is_vm() { 1 } else { 5 } {
        let outcomes: Vec<_> = thread::scope(|scope| {
            let one = || oci.run(&["create", "--bundle", &path, "twice"]);
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won = outcomes.iter().filter(|outcome| outcome.status.success()).count();
        let told: String = outcomes.iter().map(ToString::to_string).collect();
        assert_eq!(won, 1, "{told}");
        for lost in outcomes.iter().filter(|outcome| !outcome.status.success()) {
            assert!(lost.error_text().contains("exist"), "{lost}");
        }
        assert_eq!(oci.status("twice"), "created");
        oci.run(&["start", "twice"]).assert_code(0);
        oci.delete_force("twice");
    }
}

/// Ids and bundles that cannot be.
fn ids_and_bundles(oci: &Oci) {
    let bundle = oci.bundle("ids");
    bundle.write();
    let path = bundle.path.display().to_string();
    for id in ["", ".", "..", "a/b", "../a", "a b", "a\nb", "é", "a;b"] {
        let outcome = oci.run(&["create", "--bundle", &path, id]);
        assert_ne!(outcome.code(), 0, "id {id:?} is taken: {outcome}");
    }
    let missing = oci.path("missing").display().to_string();
    let empty = oci.path("empty");
    fs::create_dir(&empty).unwrap();
    for directory in [missing.as_str(), empty.to_str().unwrap()] {
        let outcome = oci.run(&["create", "--bundle", directory, "ids"]);
        assert_eq!(outcome.code(), 1, "{outcome}");
    }
    for arguments in [
        &["create", "--bundle", &path][..],
        &["create", "--bundle", &path, "one", "two"],
        &["start"],
        &["kill"],
        &["nonsense"],
        &["state", "--nonsense", "x"],
    ] {
        assert_ne!(oci.run(arguments).code(), 0, "{arguments:?}");
    }
    assert_eq!(oci.leftovers(), Vec::<String>::new());
    // Ids that can be, the longest among them.
    let long = "a".repeat(200);
    for id in ["a.b-c_d+e", long.as_str()] {
        if !oci.is_vm() {
            oci.create(id, &bundle);
            assert_eq!(oci.state(id)["id"], id);
            oci.delete_force(id);
        }
    }
}

/// `delete --force` ends what is created, running or paused, and every process of it.
fn delete_by_force(oci: &Oci) {
    let mut bundle = oci.bundle("force");
    bundle.sh("trap '' TERM HUP INT; for i in 1 2 3; do (trap '' TERM; sleep 1000) & done; echo ready; wait");
    if !oci.is_vm() {
        // As runc's does, a plain delete ends what only waits for start.
        oci.create("force", &bundle);
        oci.run(&["delete", "force"]).assert_code(0);
        oci.assert_nothing_left();
    }
    for state in ["created", "running", "paused"] {
        if oci.is_vm() && state != "paused" {
            continue;
        }
        oci.create("force", &bundle);
        if state != "created" {
            oci.run(&["start", "force"]).assert_code(0);
            oci.wait_for_output("force", "ready");
        }
        if state == "paused" {
            oci.run(&["pause", "force"]).assert_code(0);
        }
        assert_eq!(oci.status("force"), state);
        oci.delete_force("force");
        assert_ne!(oci.run(&["state", "force"]).code(), 0);
        oci.assert_nothing_left();
    }
}

/// `--log`, `--log-format`, `--root`, `--version`, `--help`, `spec`, `features`, `checkpoint`, `restore`.
fn global_options(oci: &Oci) {
    let log = oci.path("log");
    let outcome =
        oci.run(&["--log", log.to_str().unwrap(), "--log-format", "json", "state", "none"]);
    outcome.assert_code(1);
    let text = fs::read_to_string(&log).expect("the log is written");
    let last: Value =
        serde_json::from_str(text.lines().last().expect("a line")).expect("JSON, a line each");
    assert_eq!(last["level"], "error", "{last}");
    assert!(last["msg"].as_str().is_some_and(|words| words.contains("does not exist")), "{last}");
    assert!(last["time"].is_string(), "{last}");
    let plain = oci.path("log-text");
    oci.run(&["--log", plain.to_str().unwrap(), "--debug", "state", "none"]).assert_code(1);
    let text = fs::read_to_string(&plain).expect("the log is written");
    assert!(text.contains("level=error") && text.contains("msg="), "{text}");
    let version = oci.run(&["--version"]);
    version.assert_clean();
    assert!(version.text().contains("spec: 1."), "{version}");
    oci.run(&["--help"]).assert_code(0);
    for verb in [
        "create",
        "start",
        "run",
        "state",
        "kill",
        "delete",
        "exec",
        "list",
        "ps",
        "pause",
        "resume",
        "events",
        "update",
        "spec",
        "checkpoint",
    ] {
        let help = oci.run(&[verb, "--help"]);
        help.assert_code(0);
        assert!(help.text().to_lowercase().contains("usage"), "{help}");
    }
    let directory = oci.path("spec");
    fs::create_dir(&directory).unwrap();
    oci.run(&["spec", "--bundle", directory.to_str().unwrap()]).assert_clean();
    let config: Value =
        serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    assert!(config["process"]["args"].is_array() && config["root"]["path"] == "rootfs", "{config}");
    let again = oci.run(&["spec", "--bundle", directory.to_str().unwrap()]);
    assert_eq!(again.code(), 1, "a file is not overwritten: {again}");
    let features = oci.run(&["features"]);
    features.assert_clean();
    let features: Value = serde_json::from_slice(&features.stdout).unwrap();
    assert!(
        features["ociVersionMin"].is_string() && features["linux"]["namespaces"].is_array(),
        "{features}"
    );
    assert!(
        features["mountOptions"]
            .as_array()
            .is_some_and(|options| options.contains(&json!("rbind"))),
        "{features}"
    );
    if oci.is_bulkhead() {
        for verb in ["checkpoint", "restore"] {
            let outcome = oci.run(&[verb, "none"]);
            assert_ne!(outcome.code(), 0);
            assert!(
                outcome.error_text().contains("support")
                    || outcome.error_text().contains("does not exist"),
                "{outcome}"
            );
        }
    }
    if !oci.is_vm() {
        // The default configuration runs, as it does after `runc spec`.
        let mut bundle = oci.bundle("own");
        bundle.config = config;
        bundle.config["process"]["terminal"] = json!(false);
        bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}-own", oci.mark()));
        bundle.args(&["hostname"]);
        let outcome = oci.run_bundle("own", &bundle);
        outcome.assert_code(0);
    }
}
