//! The verbs of a container's life, their answers, and the events that tell of them.

use bulkhead_tests::harness::{
    containerd::{Containerd, IMAGE, runtime_name},
    oci::Oci,
};

isolations!(
    a_long_life,
    ends_as_its_program_does,
    is_made_as_ctr_wants_it,
    is_killed_for_want_of_memory
);

/// run -d, exec, ps, metrics, pause, resume, kill, rm, and the order of all events.
fn a_long_life(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let mut events = oci.start_command(containerd.command(&["events"]));
    containerd.endless(&["--memory-limit", "67108864"], "life");
    let (pid, state) = containerd.task("life").unwrap();
    assert_eq!(state, "RUNNING");
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    let outcome = containerd.exec("one", "life", "echo in it; echo problem >&2; exit 3");
    outcome.assert_code(3);
    assert_eq!((outcome.text().as_str(), outcome.error_text().as_str()), ("in it\n", "problem\n"));
    let missing = containerd.run(&["task", "exec", "--exec-id", "two", "life", "no-such-program"]);
    assert!(missing.error_text().contains("executable file not found in $PATH"), "{missing}");
    let metrics = containerd.text(&["task", "metrics", "life"]);
    let limit =
        metrics.lines().find(|line| line.starts_with("memory.usage_") && line.contains("limit"));
    let v1 = metrics.lines().any(|line| line.starts_with("memory.usage_in_bytes"));
    assert!(v1 || limit.is_some_and(|line| line.contains("67108864")), "{metrics}");
    let listed = containerd.text(&["task", "ps", "life"]);
    assert!(listed.contains(&pid.to_string()), "{listed}");
    containerd.text(&["task", "pause", "life"]);
    assert_eq!(containerd.task("life").unwrap().1, "PAUSED");
    let refused = containerd.exec("three", "life", "true");
    assert!(!refused.status.success(), "{refused}");
    containerd.text(&["task", "resume", "life"]);
    assert_eq!(containerd.task("life").unwrap().1, "RUNNING");
    let refused = containerd.run(&["task", "rm", "life"]);
    assert!(refused.error_text().contains("must be stopped"), "{refused}");
    containerd.text(&["task", "kill", "life"]);
    containerd.wait_for_state("life", "STOPPED");
    let removed = containerd.run(&["task", "rm", "life"]);
    assert!(removed.error_text().contains("exit code 5"), "{removed}");
    containerd.text(&["container", "rm", "life"]);
    for topic in [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit",
        "/tasks/delete",
    ] {
        events.wait_for(topic);
    }
}

/// The codes of programs, of signals, and of programs that cannot be run.
fn ends_as_its_program_does(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let run =
        |id: &str, words: &[&str]| oci.run_command(containerd.run_command(&["--rm"], id, words));
    run("code", &["sh", "-c", "exit 23"]).assert_code(23);
    run("signal", &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).assert_code(137);
    let missing = run("missing", &["no-such-program"]);
    assert!(missing.error_text().contains("executable file not found in $PATH"), "{missing}");
    assert!(containerd.task("missing").is_none());
}

/// Options of `ctr run` that change how a root is made, and that it sends in a message of its own.
fn is_made_as_ctr_wants_it(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let run = |command, expected| {
        let outcome = oci.run_command(command);
        assert_eq!(outcome.assert_code(0).text(), expected);
    };
    let shared = ["--rm", "--rootfs-propagation", "shared"];
    let look = ["sh", "-c", "grep -c ' / / .* shared:' /proc/self/mountinfo"];
    run(containerd.run_command(&shared, "shared", &look), "1\n");
    let users = ["--rm", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let look = "id -u; echo x > /file; stat -c %u:%g /file /etc/passwd; awk '{print $1, $2, $3}' /proc/self/uid_map";
    let look = ["sh", "-c", look];
    let owned = "0\n0:0\n0:0\n0 100000 65536\n";
    if containerd.text(&["version"]).contains("Version:  2.") {
        // Its ctr takes these options beside no file of the runtime's, and its snapshotter maps owners.
        let cgroup = format!("/{}-users", oci.mark());
        let runtime = ["--cgroup", &cgroup, "--runtime", runtime_name(oci.peer())];
        for more in [&[][..], &["--remap-labels"]] {
            let words = [&["run"], &runtime[..], &users, more, &[IMAGE, "users"], &look].concat();
            run(containerd.command(&words), owned);
        }
    } else {
        run(containerd.run_command(&users, "users", &look), owned);
        let look = ["sh", "-c", "test -s /etc/passwd && echo here"];
        run(containerd.run_command(&["--rm", "--no-pivot"], "no-pivot", &look), "here\n");
    }
}

/// Its limit is told before its end.
fn is_killed_for_want_of_memory(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let mut events = oci.start_command(containerd.command(&["events"]));
    containerd.detached(&["--memory-limit", "16777216", "--null-io"], "greedy", "tail /dev/zero");
    for topic in ["/tasks/start", "/tasks/oom", "/tasks/exit"] {
        events.wait_for(topic);
    }
    containerd.wait_for_state("greedy", "STOPPED");
    containerd.remove("greedy");
}
