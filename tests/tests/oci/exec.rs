//! `exec`: many at once, each with its own streams, terminal, exit code and signal; its flags and `--process`.

use std::{fs, thread};

use bulkhead_tests::harness::oci::{Oci, capability_bits};
use rustix::process::Signal;
use serde_json::{Value, json};

isolations!(host: streams_and_codes, flags, many_at_once, preserved_descriptors; vm: streams_and_codes, flags, many_at_once, preserved_descriptors);

/// Pipes, exit codes, signals both ways, pid files, detaching, programs that are not there.
fn streams_and_codes(oci: &Oci) {
    let mut bundle = oci.bundle("exec");
    bundle.sh("echo init; exec sleep 1000");
    oci.create_and_start("exec", &bundle);
    let mut run = oci.start(&["exec", "exec", "sh", "-c", "cat; echo problem >&2; exit 17"]);
    run.feed(vec![b'x'; 300_000]);
    let outcome = run.wait();
    outcome.assert_code(17);
    assert_eq!(outcome.stdout.len(), 300_000);
    assert_eq!(outcome.error_text(), "problem\n");
    oci.start(&["exec", "exec", "sh", "-c", "kill -9 $$"]).wait().assert_code(137);
    oci.start(&["exec", "exec", "true"]).wait().assert_clean();
    // A signal to the command is one to the process, which ends as it wants.
    let mut run = oci.start(&[
        "exec",
        "exec",
        "sh",
        "-c",
        "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    run.wait_for("ready");
    run.signal(Signal::TERM);
    let outcome = run.wait();
    outcome.assert_code(9);
    assert!(outcome.text().ends_with("got\n"), "{outcome}");
    for (program, word) in
        [("no-such-program", "no-such-program"), ("/etc/passwd", "/etc/passwd"), ("/", "")]
    {
        let outcome = oci.start(&["exec", "exec", program]).wait();
        assert_ne!(outcome.code(), 0, "{outcome}");
        assert!(outcome.error_text().contains(word), "{outcome}");
    }
    assert_ne!(oci.run(&["exec", "exec"]).code(), 0, "a program is wanted");
    // Detached: the command ends at once, the pid file has the process, which is adopted with its code.
    let pid_file = oci.path("exec.pid");
    let pid_path = pid_file.display().to_string();
    oci.run(&[
        "exec",
        "--detach",
        "--pid-file",
        &pid_path,
        "exec",
        "sh",
        "-c",
        "sleep 0.5; exit 23",
    ])
    .assert_code(0);
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert_eq!(oci.exit_code(pid), 23);
    // It is in the container: its view, its cgroup, not its first process.
    let outcome = oci.start(&["exec", "exec", "/probe", "look", "list=/proc"]).wait();
    let seen: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(seen["names"]["host"], "a-container");
    assert_ne!(seen["pid"], 1);
    assert_eq!(
        seen["status"]["CapEff"],
        capability_bits(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"])
    );
    assert_eq!(seen["status"]["NoNewPrivs"], "1");
    let descriptors: Vec<_> = seen["descriptors"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(descriptors, ["0", "1", "2"]);
    if !oci.is_vm() {
        let pid = oci.pid("exec");
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert_eq!(seen["cgroup"].as_str().unwrap(), cgroup.trim_end(), "the container's cgroup");
        for kind in ["mnt", "pid", "net", "ipc", "uts"] {
            let namespace = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_eq!(
                seen["namespaces"][kind].as_str().unwrap(),
                namespace.to_str().unwrap(),
                "{kind}"
            );
        }
    }
    oci.delete_force("exec");
}

/// `--user --cwd --env --cap --additional-gids --no-new-privs --process`.
fn flags(oci: &Oci) {
    let mut bundle = oci.bundle("flags");
    bundle.sh("exec sleep 1000");
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    oci.create_and_start("flags", &bundle);
    let look = |arguments: &[&str]| -> Value {
        let outcome = oci.start(&[&["exec"], arguments, &["/probe", "look"]].concat()).wait();
        outcome.assert_code(0);
        serde_json::from_slice(&outcome.stdout).unwrap()
    };
    let seen = look(&[
        "--user",
        "1000:1001",
        "--cwd",
        "/home",
        "--env",
        "A=b=c",
        "--env",
        "TERM=dumb",
        "--cap",
        "CAP_SYS_CHROOT",
        "--additional-gids",
        "7",
        "--additional-gids",
        "8",
        "--no-new-privs",
        "flags",
    ]);
    assert_eq!(seen["status"]["Uid"], "1000 1000 1000 1000");
    assert_eq!(seen["status"]["Gid"], "1001 1001 1001 1001");
    assert_eq!(seen["status"]["Groups"], "7 8");
    assert_eq!(seen["status"]["NoNewPrivs"], "1");
    assert_eq!(seen["cwd"], "/home");
    let environment = seen["env"].as_array().unwrap();
    assert!(
        environment.contains(&json!("A=b=c")) && environment.contains(&json!("TERM=dumb")),
        "{environment:?}"
    );
    assert!(
        environment.iter().any(|variable| variable.as_str().unwrap().starts_with("PATH=")),
        "{environment:?}"
    );
    let bounding = seen["status"]["CapBnd"].as_str().unwrap().to_owned();
    assert_eq!(
        bounding,
        capability_bits(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"])
    );
    let seen = look(&["--user", "5", "flags"]);
    assert_eq!(seen["status"]["Uid"], "5 5 5 5");
    let file = oci.path("process.json");
    let process = json!({
        "terminal": false,
        "user": {"uid": 12, "gid": 13, "additionalGids": [14]},
        "args": ["/probe", "look"],
        "env": ["ONLY=this", "PATH=/bin"],
        "cwd": "/tmp",
        "capabilities": {"bounding": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}],
        "noNewPrivileges": true,
        "oomScoreAdj": 400,
    });
    fs::write(&file, process.to_string()).unwrap();
    let outcome = oci.start(&["exec", "--process", file.to_str().unwrap(), "flags"]).wait();
    outcome.assert_code(0);
    let seen: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(
        (&seen["status"]["Uid"], &seen["status"]["Groups"]),
        (&json!("12 12 12 12"), &json!("14"))
    );
    assert_eq!(seen["cwd"], "/tmp");
    assert!(seen["env"].as_array().unwrap().contains(&json!("ONLY=this")));
    assert_eq!(seen["rlimits"]["RLIMIT_NOFILE"], json!([55, 66]));
    for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(seen["status"][set], capability_bits(&["CAP_KILL"]), "{set}");
    }
    if oci.is_bulkhead() {
        assert_eq!(seen["oom_score_adj"], "400");
    }
    fs::write(&file, "{\"args\": 5}").unwrap();
    let outcome = oci.run(&["exec", "--process", file.to_str().unwrap(), "flags"]);
    assert_ne!(outcome.code(), 0);
    assert!(outcome.error_text().contains("args") || !oci.is_bulkhead(), "{outcome}");
    oci.delete_force("flags");
}

/// At once, none in another's way: long and short ones, each with its own input, output and code.
fn many_at_once(oci: &Oci) {
    let mut bundle = oci.bundle("many");
    bundle.sh("exec sleep 1000");
    oci.create_and_start("many", &bundle);
    let mut long = oci.start(&["exec", "many", "cat"]);
    long.write(b"first\n");
    long.wait_for("first\n");
    let count = if oci.is_vm() { 12 } else { 30 };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number: i32| {
                scope.spawn(move || {
                    let mut run = oci.start(&[
                        "exec",
                        "many",
                        "sh",
                        "-c",
                        &format!("read line; echo {number} $line; exit {number}"),
                    ]);
                    run.feed(format!("input of {number}\n").into_bytes());
                    run.wait()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (number, outcome) in outcomes.iter().enumerate() {
        outcome.assert_code(i32::try_from(number).unwrap());
        assert_eq!(outcome.text(), format!("{number} input of {number}\n"));
    }
    long.write(b"last\n");
    long.wait_for("last\n");
    // The container's end is everybody's.
    oci.run(&["kill", "many", "KILL"]).assert_code(0);
    long.wait().assert_code(137);
    oci.wait_for_status("many", "stopped");
    oci.run(&["delete", "many"]).assert_code(0);
}

/// `--preserve-fds` and `LISTEN_FDS`: descriptors from 3 on reach the program, others do not.
fn preserved_descriptors(oci: &Oci) {
    let mut bundle = oci.bundle("descriptors");
    let file = oci.path("passed");
    fs::write(&file, "through a descriptor\n").unwrap();
    bundle.sh("cat <&3; ls /proc/self/fd | tr '\\n' ' '; exec sleep 1000");
    bundle.write();
    let path = bundle.path.display().to_string();
    let passed = |arguments: &[&str]| {
        let command = oci.command(arguments);
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.display()))
            .collect();
        let mut shell = std::process::Command::new("sh");
        // 5 is open too and is not to be passed on.
        shell.args([
            "-c",
            &format!("exec 3< {0} 5< {0}; exec {1}", file.display(), words.join(" ")),
        ]);
        oci.settings(&mut shell);
        shell
    };
    let mut run = oci.start_command(passed(&[
        "run",
        "--bundle",
        &path,
        "--preserve-fds",
        "1",
        "descriptors",
    ]));
    if oci.is_vm() {
        // A descriptor of the host's has no meaning in a guest; that is said, at once.
        let outcome = run.wait();
        assert_ne!(outcome.code(), 0);
        assert!(outcome.error_text().contains("preserve-fds"), "{outcome}");
        return;
    }
    run.wait_for("through a descriptor\n");
    run.wait_for("0 1 2 3 ");
    let outcome = oci
        .start_command(passed(&[
            "exec",
            "--preserve-fds",
            "1",
            "descriptors",
            "cat",
            "/proc/self/fd/3",
        ]))
        .wait();
    outcome.assert_code(0);
    assert_eq!(outcome.text(), "through a descriptor\n");
    oci.run(&["kill", "descriptors", "KILL"]).assert_code(0);
    run.wait().assert_code(137);
}
