//! `hooks` of all six kinds: order, state on standard input, where they run, environment, timeouts, failures (config.md, POSIX-platform Hooks).

use std::{fs, path::Path};

use bulkhead_tests::harness::oci::{Bundle, Oci};
use serde_json::{Value, json};

isolations!(host: order_and_state, failures, what_cannot_be; vm: order_and_state, failures, what_cannot_be);

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook that keeps the state that it gets, what it sees, and its turn.
fn recording(directory: &Path, kind: &str, number: u32) -> Value {
    let directory = directory.display();
    let name = format!("{kind}-{number}");
    let script = format!(
        "cat > {directory}/state-{name}; echo {name} >> {directory}/order; env > {directory}/env-{name};
         readlink /proc/self/ns/mnt > {directory}/mnt-{name}; pwd > {directory}/pwd-{name}"
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["HOOK=given", "PATH=/bin:/usr/bin"], "timeout": 60})
}

fn hook_kinds(directory: &Path) -> Value {
    let mut hooks = json!({});
    for kind in KINDS {
        hooks[kind] = json!([recording(directory, kind, 1), recording(directory, kind, 2)]);
    }
    hooks
}

fn bundle_with(oci: &Oci, directory: &Path) -> Bundle {
    fs::create_dir_all(directory).unwrap();
    let mut bundle = oci.bundle("hooks");
    let caps = json!(["CAP_DAC_OVERRIDE"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    // What runs in the container writes to the host's directory, which is there by the same name.
    bundle.mount("bind", directory, directory.to_str().unwrap(), &["rbind", "rw"]);
    bundle.config["hooks"] = hook_kinds(directory);
    bundle.config["annotations"] = json!({"key": "value"});
    bundle
}

/// Each kind at its moment, in its order, with the state of that moment.
fn order_and_state(oci: &Oci) {
    let directory = oci.path("record");
    let mut bundle = bundle_with(oci, &directory);
    bundle.sh(&format!("echo program >> {}/order; exec sleep 1000", directory.display()));
    oci.create("hooks", &bundle);
    let order = || fs::read_to_string(directory.join("order")).unwrap_or_default();
    let created = "prestart-1\nprestart-2\ncreateRuntime-1\ncreateRuntime-2\ncreateContainer-1\ncreateContainer-2\n";
    if oci.is_bulkhead() {
        assert_eq!(order(), created, "after create");
    } else {
        // runc 1.1 runs the hooks after start already in create.
        let order = order().replace("poststart-1\npoststart-2\n", "");
        assert_eq!(order, created, "after create");
        return oci.delete_force("hooks");
    }
    let pid = oci.pid("hooks");
    oci.run(&["start", "hooks"]).assert_code(0);
    oci.wait("the program", || order().contains("program\n") && order().contains("poststart-2\n"));
    let text = order();
    let started = text.strip_prefix(created).unwrap();
    assert!(started.starts_with("startContainer-1\nstartContainer-2\n"), "{text}");
    let mut rest: Vec<_> = started.lines().skip(2).collect();
    // The program and the hooks after start run at the same time.
    rest.sort_unstable();
    assert_eq!(rest, ["poststart-1", "poststart-2", "program"]);
    oci.run(&["kill", "hooks", "KILL"]).assert_code(0);
    oci.wait_for_status("hooks", "stopped");
    assert!(!order().contains("poststop"));
    oci.run(&["delete", "hooks"]).assert_code(0);
    assert!(order().ends_with("poststop-1\npoststop-2\n"), "{}", order());
    let own_mounts = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    for (kind, statuses) in KINDS.iter().zip([
        &["creating", "created"][..],
        &["creating", "created"],
        &["creating", "created"],
        &["created"],
        &["running"],
        &["stopped"],
    ]) {
        for number in [1, 2] {
            let read = |what: &str| {
                fs::read_to_string(directory.join(format!("{what}-{kind}-{number}"))).unwrap()
            };
            let state: Value = serde_json::from_str(&read("state"))
                .unwrap_or_else(|error| panic!("{kind}: {error}: {}", read("state")));
            assert_eq!(state["id"], "hooks", "{kind}");
            assert!(state["ociVersion"].is_string(), "{kind}");
            assert_eq!(state["bundle"].as_str().unwrap(), bundle.path.to_str().unwrap(), "{kind}");
            assert_eq!(state["annotations"], json!({"key": "value"}), "{kind}");
            assert!(statuses.iter().any(|status| state["status"] == *status), "{kind}: {state}");
            if ["prestart", "createRuntime", "poststart"].contains(kind) {
                assert_eq!(state["pid"], pid, "{kind}: {state}");
            }
            let environment = read("env");
            assert!(environment.lines().any(|line| line == "HOOK=given"), "{kind}: {environment}");
            assert!(
                !environment.contains("BULKHEAD_TEST="),
                "the caller's environment is not the hook's: {environment}"
            );
            let mounts = read("mnt");
            if ["prestart", "createRuntime", "poststart", "poststop"].contains(kind) {
                assert_eq!(mounts.trim(), own_mounts, "{kind} runs on the host");
            } else if !oci.is_vm() {
                assert_ne!(
                    mounts.trim(),
                    own_mounts,
                    "{kind} runs in the container's mount namespace"
                );
            }
        }
    }
}

/// A hook that fails or takes too long before the program runs ends it all, with its name; later ones do not matter.
fn failures(oci: &Oci) {
    let directory = oci.path("record");
    let failing = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo words of the hook >&2; exit 3"], "env": ["PATH=/bin"]});
    let slow = json!({"path": "/bin/sh", "args": ["sh", "-c", "exec sleep 1000"], "env": ["PATH=/bin"], "timeout": 1});
    for (kind, hook) in [
        ("prestart", &failing),
        ("createRuntime", &failing),
        ("createRuntime", &slow),
        ("createContainer", &failing),
        ("startContainer", &failing),
        ("poststart", &failing),
        ("poststop", &failing),
    ] {
        // runc 1.1 runs those after start in create, and fails; the specification 1.2 has it go on.
        if kind == "poststart" && !oci.is_bulkhead() {
            continue;
        }
        // One kind of each side; a machine boots for each.
        if oci.is_vm() && !["prestart", "startContainer", "poststop"].contains(&kind) {
            continue;
        }
        fs::remove_dir_all(&directory).ok();
        let mut bundle = bundle_with(oci, &directory);
        for other in KINDS.iter().filter(|other| !["poststop"].contains(other)) {
            bundle.config["hooks"].as_object_mut().unwrap().remove(*other);
        }
        bundle.config["hooks"][kind] = json!([hook, recording(&directory, kind, 2)]);
        bundle.sh(&format!("echo program >> {}/order; exec sleep 1000", directory.display()));
        let created = oci.create_with("hooks", &bundle, &[]);
        let order = || fs::read_to_string(directory.join("order")).unwrap_or_default();
        match kind {
            "prestart" | "createRuntime" | "createContainer" => {
                assert_ne!(created.code(), 0, "{kind}: {created}");
                assert!(created.error_text().contains("hook"), "{kind}: {created}");
                assert!(!order().contains(&format!("{kind}-2")), "{kind}: {}", order());
                assert_ne!(oci.run(&["state", "hooks"]).code(), 0, "{kind}: no state is left");
                oci.assert_nothing_left();
                continue;
            }
            "startContainer" => {
                created.assert_code(0);
                let started = oci.run(&["start", "hooks"]);
                if oci.is_bulkhead() {
                    // runc 1.1 says it in the container's own log only.
                    assert_ne!(started.code(), 0, "{kind}: {started}");
                }
                assert!(!order().contains("program"));
                oci.wait_for_status("hooks", "stopped");
            }
            "poststart" => {
                created.assert_code(0);
                oci.run(&["start", "hooks"]).assert_code(0);
                assert_eq!(oci.status("hooks"), "running");
            }
            _ => {
                created.assert_code(0);
                oci.run(&["start", "hooks"]).assert_code(0);
            }
        }
        // A failure after the end is logged, and deletion goes on.
        oci.run(&["delete", "--force", "hooks"]).assert_code(0);
        if kind == "poststop" {
            assert!(order().contains("poststop-2"), "the next hook runs all the same: {}", order());
        }
        oci.assert_nothing_left();
    }
}

/// Hooks that are not there, relative paths, timeouts that are none.
fn what_cannot_be(oci: &Oci) {
    for (name, hook) in [
        ("missing", json!({"path": "/no/such/hook"})),
        ("relative", json!({"path": "bin/true"})),
        ("timeout", json!({"path": "/bin/true", "timeout": -1})),
    ] {
        if name == "timeout" && !oci.is_bulkhead() {
            continue;
        }
        let mut bundle = oci.bundle(name);
        bundle.config["hooks"] = json!({"createRuntime": [hook]});
        let outcome = oci.create_with(name, &bundle, &[]);
        assert_eq!(outcome.code(), 1, "{outcome}");
        let error = outcome.error_text();
        assert!(
            error.contains("hook") || error.contains("timeout") || error.contains("no/such"),
            "{outcome}"
        );
        assert_ne!(oci.run(&["state", name]).code(), 0);
    }
}
