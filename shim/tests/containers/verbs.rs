//! The verbs, in their states, with docker's words and codes.

use std::{fs, process::Stdio, thread};

use serde_json::Value;

use crate::host::{host, text, until};

#[test]
fn a_container_stays_with_what_it_wrote_until_it_is_removed() {
    let Some(host) = host() else { return };
    let script = "echo run >> /runs; cat /runs | wc -l; exit 4";
    let output = host.run(&["run", "--name", "c1", "busybox", "sh", "-c", script]);
    assert_eq!((text(&output.stdout).trim(), output.status.code()), ("1", Some(4)));
    assert_eq!(host.ok(&["ps", "-q"]), "");
    assert!(host.ok(&["ps", "-a"]).contains("Exited (4)"));
    let again = host.run(&["start", "-a", "c1"]);
    assert_eq!((text(&again.stdout).trim(), again.status.code()), ("2", Some(4)));
    assert_eq!(host.ok(&["restart", "c1"]), "c1");
    assert_eq!(host.ok(&["wait", "c1"]), "4");
    assert_eq!(host.ok(&["logs", "c1"]), "1\n2\n3");
    host.refused(&["image", "rm", "busybox"], 125, "in use by container c1");
    assert_eq!(host.ok(&["rm", "c1"]), "c1");
    host.refused(&["rm", "c1"], 1, "No such container: c1");
    host.assert_nothing_left();
}

#[test]
fn names_and_the_starts_of_ids_mean_one_container() {
    let Some(host) = host() else { return };
    let id = host.ok(&["create", "--name", "one", "busybox", "true"]);
    assert_eq!(id.len(), 64);
    host.refused(&["create", "--name", "one", "busybox", "true"], 1, "already in use by container");
    host.refused(&["run", "--name", "one", "busybox", "true"], 125, "already in use by container");
    host.refused(&["run", "--name", "-", "busybox", "true"], 125, "not a container's name");
    let other = host.ok(&["create", "busybox", "true"]);
    for reference in ["one", &id, &id[..12]] {
        assert_eq!(host.field(reference, "Id"), id);
    }
    assert_eq!(host.field(&other[..12], "Name"), other[..12]);
    host.refused(&["rename", "one", &other[..12]], 1, "already in use");
    host.ok(&["rename", "one", "first"]);
    host.refused(&["inspect", "-f", "{{.Id}}", "one"], 1, "No such container: one");
    assert_eq!(host.field("first", "Id"), id);
    // As many as there are digits, and one more.
    let more: Vec<String> = (0..15).map(|_| host.ok(&["create", "busybox", "true"])).collect();
    let all: Vec<&str> = more.iter().map(String::as_str).chain([&*id, &*other]).collect();
    let twice = ('0'..='f')
        .find(|digit| all.iter().filter(|id| id.starts_with(*digit)).count() > 1)
        .unwrap()
        .to_string();
    host.refused(&["start", &twice], 1, "Multiple IDs found");
    let rows: Value = serde_json::from_str(&host.ok(&["ps", "-a", "--json"])).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 17);
    assert_eq!(rows[16]["name"], "first");
    assert_eq!(host.ok(&["ps", "-a", "-q", "--no-trunc"]).lines().count(), 17);
    let removed = host.ok(&[&["rm"], &all[..]].concat());
    assert_eq!(removed.lines().count(), 17);
    host.assert_nothing_left();
}

#[test]
fn each_verb_in_the_wrong_state_says_so() {
    let Some(host) = host() else { return };
    host.ok(&["create", "--name", "c1", "busybox", "sleep", "1000"]);
    for words in [
        &["exec", "c1", "ls"][..],
        &["pause", "c1"],
        &["unpause", "c1"],
        &["top", "c1"],
        &["stats", "c1"],
    ] {
        host.refused(words, 1, "is not running");
    }
    host.refused(&["kill", "c1"], 1, "Cannot kill container: c1");
    host.refused(&["attach", "c1"], 1, "cannot attach to a stopped container");
    assert_eq!(host.ok(&["stop", "c1"]), "c1");
    host.ok(&["start", "c1"]);
    assert_eq!(host.ok(&["start", "c1"]), "c1");
    host.refused(&["start", "-a", "c1"], 1, "already running");
    host.refused(&["rm", "c1"], 1, "cannot remove a running container");
    host.refused(&["unpause", "c1"], 1, "not paused");
    host.ok(&["pause", "c1"]);
    host.refused(&["pause", "c1"], 1, "already paused");
    host.refused(&["exec", "c1", "ls"], 1, "paused");
    host.refused(&["attach", "c1"], 1, "paused");
    assert!(host.ok(&["ps"]).contains("(Paused)"));
    host.refused(&["kill", "-s", "NOPE", "c1"], 1, "Invalid signal: NOPE");
    // A paused container can be killed all the same.
    host.ok(&["kill", "c1"]);
    host.wait_for("c1", "State.Status", "exited");
    assert_eq!(host.field("c1", "State.ExitCode"), "137");
    host.refused(&["exec", "nope", "ls"], 1, "No such container: nope");
    let several = host.run(&["rm", "nope", "c1"]);
    assert_eq!((several.status.code(), text(&several.stdout)), (Some(1), "c1\n".into()));
    host.assert_nothing_left();
}

#[test]
fn stop_asks_first_and_kills_then() {
    let Some(host) = host() else { return };
    let script =
        |trap: &str| format!("trap '{trap}' TERM; echo ready; while true; do sleep 0.05; done");
    host.ok(&["run", "-d", "--name", "polite", "busybox", "sh", "-c", &script("exit 3")]);
    host.ok(&["run", "-d", "--name", "deaf", "busybox", "sh", "-c", &script("")]);
    host.ok(&[
        "run",
        "-d",
        "--name",
        "own",
        "--stop-signal",
        "USR1",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 8' USR1; echo ready; while true; do sleep 0.05; done",
    ]);
    for name in ["polite", "deaf", "own"] {
        host.wait_for_log(name, "ready");
    }
    host.ok(&["stop", "-t", "1", "polite", "deaf", "own"]);
    for (name, code) in [("polite", "3"), ("deaf", "137"), ("own", "8")] {
        assert_eq!(host.ok(&["wait", name]), code);
    }
    host.ok(&["rm", "polite", "deaf", "own"]);
    host.assert_nothing_left();
}

#[test]
fn exec_joins_with_what_it_is_told() {
    let Some(host) = host() else { return };
    host.ok(&["run", "-d", "--name", "c1", "-e", "A=1", "-w", "/tmp", "busybox", "sleep", "1000"]);
    assert_eq!(host.ok(&["exec", "c1", "sh", "-c", "echo $A; pwd; id -u"]), "1\n/tmp\n0");
    let words = ["exec", "-e", "A=2", "-w", "/etc", "-u", "7:8", "c1", "sh", "-c"];
    let told = host.ok(&[&words[..], &["echo $A; pwd; id -u; id -g"]].concat());
    assert_eq!(told, "2\n/etc\n7\n8");
    assert_eq!(host.run(&["exec", "c1", "sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(host.run(&["exec", "c1", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    host.refused(&["exec", "c1", "no-such"], 127, "no-such");
    host.refused(&["exec", "c1", "/etc"], 126, "/etc");
    host.refused(&["exec", "-w", "etc", "c1", "ls"], 1, "not absolute");
    host.refused(&["exec", "-u", "nobody-here", "c1", "ls"], 1, "nobody-here");
    host.ok(&["exec", "-d", "c1", "sh", "-c", "sleep 0.1; touch /done"]);
    until(|| host.run(&["exec", "c1", "ls", "/done"]).status.success());
    let many: Vec<_> = (0..10)
        .map(|i| {
            let word = format!("exit {i}");
            let mut command = host.command(&["exec", "c1", "sh", "-c", &word]);
            thread::spawn(move || command.stdout(Stdio::null()).status().unwrap().code())
        })
        .collect();
    for (i, one) in (0..).zip(many) {
        assert_eq!(one.join().unwrap(), Some(i));
    }
    let table = host.ok(&["top", "c1"]);
    assert!(table.lines().count() == 2 && table.contains("sleep 1000"), "{table}");
    let rows: Value =
        serde_json::from_str(&host.ok(&["stats", "--no-stream", "--json", "c1"])).unwrap();
    assert_eq!(
        (rows[0]["name"].as_str(), rows[0]["pids"].as_u64()),
        (Some("c1"), rows[0]["pids"].as_u64().filter(|n| (1..3).contains(n)))
    );
    host.ok(&["rm", "-f", "c1"]);
    host.assert_nothing_left();
}

#[test]
fn of_two_who_start_one_container_one_does() {
    let Some(host) = host() else { return };
    host.ok(&["create", "--name", "c1", "busybox", "sh", "-c", "echo started; sleep 1000"]);
    let starts: Vec<_> = (0..6).map(|_| host.command(&["start", "c1"]).output()).collect();
    let racing: Vec<_> = (0..6)
        .map(|_| {
            host.command(&["restart", "-t", "0", "c1"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    assert!(starts.into_iter().all(|start| start.unwrap().status.success()));
    for mut one in racing {
        one.wait().unwrap();
    }
    host.wait_for("c1", "State.Status", "running");
    assert_eq!(host.ok(&["ps", "-q"]).lines().count(), 1);
    assert_eq!(host.processes().len(), 2, "a keeper and its guardian");
    host.ok(&["rm", "-f", "c1"]);
    host.assert_nothing_left();
}

#[test]
fn a_container_sees_what_docker_would_show_it() {
    let Some(host) = host() else { return };
    let data = host.path("shared");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "from the host").unwrap();
    let volume = format!("{}:/data:ro", data.display());
    let script = "cat /data/file; touch /data/x 2>&1; hostname; id -u; ls -ld / | cut -c1-10; \
                  grep Seccomp: /proc/self/status; ip addr | grep -c ' lo:'; unshare -m true 2>&1; mount -t tmpfs none /tmp 2>&1";
    let words = [
        "run",
        "--rm",
        "-v",
        &volume,
        "--hostname",
        "inside",
        "-u",
        "5",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let output = host.run(&words);
    let seen = text(&output.stdout);
    for part in [
        "from the host",
        "Read-only file system",
        "inside\n5\n",
        "drwxr-xr-x",
        "Seccomp:\t2",
        "\n1\n",
    ] {
        assert!(seen.contains(part), "{part:?}: {seen}");
    }
    assert!(!data.join("x").exists());
    let read_only = host.run(&[
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/run",
        "busybox",
        "sh",
        "-c",
        "touch /x; touch /run/y && echo ok",
    ]);
    assert_eq!(text(&read_only.stdout), "ok\n", "{read_only:?}");
    host.assert_nothing_left();
}

#[test]
fn a_container_out_of_memory_says_so() {
    let Some(host) = host() else { return };
    let output = host.run(&[
        "run",
        "--name",
        "c1",
        "-m",
        "16m",
        "busybox",
        "sh",
        "-c",
        "x=x; while true; do x=$x$x; done",
    ]);
    assert_eq!(output.status.code(), Some(137), "{output:?}");
    assert!(text(&output.stderr).contains("out of memory"), "{output:?}");
    assert_eq!(host.field("c1", "State.OOMKilled"), "true");
    host.ok(&["rm", "c1"]);
}

#[test]
fn one_that_runs_with_another_state_directory_is_told_from_one_that_does_not_end() {
    let Some(host) = host() else { return };
    host.ok(&["run", "-d", "--name", "far", "busybox", "sleep", "100000"]);
    let with = |run: &str, words: &[&str]| {
        host.command(words).env("BULKHEAD_RUN", host.path(run)).output().unwrap()
    };
    let run = fs::canonicalize(host.path("run")).unwrap();
    let says = format!("was started with BULKHEAD_RUN={}", run.display());
    for words in [
        &["kill", "far"][..],
        &["stop", "far"],
        &["rm", "-f", "far"],
        &["wait", "far"],
        &["pause", "far"],
        &["exec", "far", "true"],
        &["attach", "far"],
        &["top", "far"],
        &["stats", "--no-stream", "far"],
    ] {
        let output = with("other", words);
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(&says), "{words:?}: {output:?}");
        assert_eq!(error.lines().count(), 1, "{words:?}: {error}");
    }
    assert!(text(&with("other", &["ps"]).stdout).contains("Up "));
    // It is the directory that counts, and not its name.
    std::os::unix::fs::symlink(&run, host.path("alias")).unwrap();
    assert!(with("alias", &["exec", "far", "true"]).status.success());
    assert!(with("alias", &["stop", "-t", "0", "far"]).status.success());
    // One that does not run may be started and removed with any.
    assert!(with("other", &["start", "far"]).status.success());
    host.refused(&["kill", "far"], 1, &format!("BULKHEAD_RUN={}", host.path("other").display()));
    assert!(with("other", &["rm", "-f", "far"]).status.success());
    // Its empty directory in the other one goes with the next command there.
    host.ok(&["ps"]);
    host.assert_nothing_left();
}
