//! Signals, terminals, processes that join, and what a monitor may get wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::fs::symlink,
};

use bulkhead_protocol::{
    Awaken, Call, Create, Exec, ExitStatus, FailureKind, Message, Prepare, Request, Root, Stdio,
    Target, WindowSize, write_frame,
};
use serde_json::json;
use support::{Agent, all, can_run, process, shell, spec};

#[test]
fn signals() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    agent
        .create(
            "c",
            shell("trap 'echo got; exit 3' USR1; echo on; while :; do sleep 1; done"),
            &root,
            all(1),
        )
        .unwrap();
    agent.start_container("c").unwrap();
    let mut stream = agent.stream(1);
    stream.read_exact(&mut [0; 3]).unwrap();
    agent.kill("c", libc_usr1(), false).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got\n");
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(3));
    assert_eq!(agent.kill("c", 9, false).unwrap_err().kind, FailureKind::State);
    agent.delete("c").unwrap();

    agent.create("d", spec(&["sleep", "1000"]), &root, all(3)).unwrap();
    assert_eq!(agent.delete("d").unwrap_err().kind, FailureKind::State);
    agent.start_container("d").unwrap();
    assert_eq!(agent.kill("d", 65, false).unwrap_err().kind, FailureKind::Invalid);
    agent.kill("d", 9, true).unwrap();
    assert_eq!(agent.wait("d", None).status, ExitStatus::Signal(9));
    agent.delete("d").unwrap();

    // Killed before it was started.
    agent.create("e", spec(&["true"]), &root, all(5)).unwrap();
    agent.kill("e", 9, false).unwrap();
    assert_eq!(agent.wait("e", None).status, ExitStatus::Signal(9));
    assert_eq!(agent.start_container("e").unwrap_err().kind, FailureKind::State);
    agent.delete("e").unwrap();
}

fn libc_usr1() -> i32 {
    10
}

#[test]
fn a_terminal() {
    if !can_run() {
        return;
    }
    for mut agent in [Agent::start(), Agent::start_as_first()] {
        let root = agent.root("root");
        let mut spec =
            shell("tty; stty size; ls -l /dev/console; read x; stty size; echo $x; exit 4");
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 11, "width": 22});
        let stdio = Stdio { main: Some(1), stdin: true, stderr: None };
        agent.create("c", spec, &root, stdio).unwrap();
        agent.start_container("c").unwrap();
        let mut stream = agent.stream(1);
        let mut text = String::new();
        while !text.contains("console") {
            let mut chunk = [0; 256];
            let count = stream.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "{text}");
            text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
        }
        assert!(text.contains("/dev/pts/0\r\n11 22\r\n"), "{text}");
        let size = WindowSize { rows: 33, columns: 44 };
        agent.call(Call::Resize { target: agent.target("c", None), size }).unwrap();
        stream.write_all(b"typed\n").unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("33 44\r\ntyped\r\n"), "{rest}");
        assert_eq!(agent.wait("c", None).status, ExitStatus::Code(4));
        agent.delete("c").unwrap();
    }
}

#[test]
fn processes_that_join() {
    if !can_run() {
        return;
    }
    for mut agent in [Agent::start(), Agent::start_as_first()] {
        let root = agent.root("root");
        agent.create("c", spec(&["sleep", "1000"]), &root, Stdio::default()).unwrap();
        let early = agent.exec("c", "x", process(&["true"]), all(1)).unwrap_err();
        assert_eq!(early.kind, FailureKind::State);
        agent.start_container("c").unwrap();
        for round in 0..20 {
            let token = 10 + 2 * round;
            let script = "hostname; ps | grep -c sleep; cat; exit 5";
            agent.exec("c", "x", process(&["sh", "-c", script]), all(token)).unwrap();
            let mut stream = agent.stream(token);
            stream.write_all(b"in").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut out = String::new();
            stream.read_to_string(&mut out).unwrap();
            assert!(out.starts_with("inside\n") && out.ends_with("in"), "{out}");
            assert_eq!(agent.wait("c", Some("x")).status, ExitStatus::Code(5));
        }
        let missing = agent.exec("c", "x", process(&["nothing"]), all(90)).unwrap_err();
        assert_eq!(missing.kind, FailureKind::ProgramNotFound);
        // The death of the first process takes the others along.
        agent.exec("c", "y", process(&["sleep", "1000"]), Stdio::default()).unwrap();
        agent.kill("c", 9, false).unwrap();
        assert_eq!(agent.wait("c", None).status, ExitStatus::Signal(9));
        assert_eq!(agent.wait("c", Some("y")).status, ExitStatus::Signal(9));
        agent.delete("c").unwrap();
        assert_eq!(agent.shutdown(), Some(0));
    }
}

#[test]
fn standard_input_that_nobody_reads() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    agent
        .create("c", shell("exec < /dev/null; sleep 0.2; echo still here"), &root, all(1))
        .unwrap();
    agent.start_container("c").unwrap();
    let mut stream = agent.stream(1);
    let mut writer = stream.try_clone().unwrap();
    let feeder = std::thread::spawn(move || while writer.write_all(&[0; 4096]).is_ok() {});
    let mut out = String::new();
    stream.read_to_string(&mut out).unwrap();
    assert_eq!(out, "still here\n");
    feeder.join().unwrap();
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(0));
}

#[test]
fn a_monitor_that_does_not_read_makes_the_program_wait() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    let script = "dd if=/dev/zero bs=1k count=8192 2> /dev/null; echo done >&2";
    agent.create("c", shell(script), &root, all(1)).unwrap();
    agent.start_container("c").unwrap();
    let mut out = agent.stream(1);
    let mut err = agent.stream(2);
    err.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    assert!(err.read(&mut [0; 1]).is_err(), "8 MiB went nowhere");
    err.set_read_timeout(None).unwrap();
    let mut got = Vec::new();
    out.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 8 << 20);
    let mut text = String::new();
    err.read_to_string(&mut text).unwrap();
    assert_eq!(text, "done\n");
    agent.wait("c", None);
}

#[test]
fn links_of_a_hostile_root_lead_nowhere() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let outside = agent.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let root = agent.root("root");
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../../../../../../..", root.join("up")).unwrap();
    symlink("/proc/self/fd/3", root.join("magic")).unwrap();
    symlink("/deep/dangling", root.join("dangling")).unwrap();
    let mut spec = shell("ls -d /up/bin; find / -xdev -name made; ls -d /deep/dangling/made");
    let mounts = spec["mounts"].as_array_mut().unwrap();
    for path in ["/absolute/made", "/up/made", "/dangling/made"] {
        mounts.push(json!({"destination": path, "type": "tmpfs", "source": "tmpfs"}));
    }
    let (out, err, status) = agent.run(spec.clone());
    assert_eq!(status, ExitStatus::Code(0), "{out} {err}");
    assert!(fs::read_dir(&outside).unwrap().next().is_none());
    assert!(root.join("made").exists() && !std::path::Path::new("/made").exists());
    assert!(
        root.join("deep/dangling/made").exists() || out.contains("/deep/dangling/made"),
        "{out}"
    );
    spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/magic/made", "type": "tmpfs", "source": "tmpfs"}));
    agent.create("m", spec, &root, Stdio::default()).unwrap_err();

    let evil = agent.root("evil");
    fs::remove_dir(evil.join("proc")).unwrap();
    symlink("tmp", evil.join("proc")).unwrap();
    let failure = agent.create("p", shell("true"), &evil, Stdio::default()).unwrap_err();
    assert!(failure.message.contains("/proc"), "{failure}");
    let null = agent.root("null");
    fs::write(null.join("dev/null"), "mine").unwrap();
    let mut spec = shell("true");
    spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    let failure = agent.create("n", spec, &null, Stdio::default()).unwrap_err();
    assert!(failure.message.contains("/dev/null"), "{failure}");
}

#[test]
fn the_agents_own_program_is_out_of_reach() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let program = fs::read_link(format!("/proc/{}/exe", agent.pid())).unwrap();
    assert!(program.to_str().unwrap().starts_with("/memfd:"), "{program:?}");
    let root = agent.root("root");
    symlink("/proc/self/exe", root.join("bin/self")).unwrap();
    // It runs the agent's program, which cannot be written.
    match agent.create("c", spec(&["self", "--version"]), &root, all(1)) {
        Ok(_) => {
            agent.start_container("c").ok();
        }
        Err(failure) => assert_ne!(failure.kind, FailureKind::System, "{failure}"),
    }
    let program = fs::read(env!("CARGO_BIN_EXE_bulkhead-agent")).unwrap();
    assert!(program.starts_with(b"\x7fELF"));
}

#[test]
fn requests_that_make_no_sense_are_answered() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let frame = |agent: &mut Agent, body: &str| {
        let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend(body.as_bytes());
        agent.send(&bytes);
        match agent.message() {
            Message::Reply { seq: 77, result: Err(failure) } => failure,
            other => panic!("{other:?}"),
        }
    };
    for body in [
        r#"{"seq": 77, "call": "fly"}"#,
        r#"{"seq": 77, "call": {"kill": {"target": {"container": "c"}, "signal": "KILL", "all": false}}}"#,
        r#"{"seq": 77}"#,
    ] {
        assert_eq!(frame(&mut agent, body).kind, FailureKind::Invalid, "{body}");
    }
    let root = agent.root("root");
    for id in ["", "a/b", "..%", &"x".repeat(129)] {
        let failure = agent.call(Call::Exec(Box::new(Exec {
            target: Target { container: String::new(), exec: Some(id.to_owned()) },
            process: process(&["true"]),
            stdio: Stdio::default(),
        })));
        assert_eq!(failure.unwrap_err().kind, FailureKind::Invalid, "{id}");
    }
    for (pointer, value) in [
        ("/process/cwd", json!("relative")),
        ("/process/args", json!([])),
        ("/linux/namespaces", json!([{"type": "pid"}])),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}])),
        ("/mounts/1/type", json!("nosuchfs")),
        ("/linux/sysctl", json!({"kernel.panic": "1"})),
    ] {
        let mut spec = spec(&["true"]);
        match spec.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                spec.pointer_mut(parent).unwrap()[name] = value;
            }
        }
        agent.create("c", spec, &root, Stdio::default()).expect_err(pointer);
    }
    let failure = agent.start_container("c").unwrap_err();
    assert_eq!(failure.kind, FailureKind::State);
    agent.run(shell("true"));
    assert_eq!(agent.shutdown(), Some(0));
}

#[test]
fn nothing_outlives_the_agent() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    let reply = agent.create("c", spec(&["sleep", "1000"]), &root, all(1)).unwrap();
    agent.start_container("c").unwrap();
    let bulkhead_protocol::Reply::Process { pid, .. } = reply else { panic!("{reply:?}") };
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
    assert_eq!(agent.hang_up(), Some(0));
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}

/// What `syscalls.sh` counts: as `bulkhead run` has it, the request to start comes right behind the one to create.
#[test]
fn a_container_as_docker_makes_it() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start_as_first();
    let root = agent.root("root");
    let mut spec = spec(&["/bin/true"]);
    spec["process"]["env"].as_array_mut().unwrap().push(json!("HOME=/root"));
    let create = Create {
        container: agent.id("c"),
        spec,
        root: Root::Directory { path: root },
        stdio: all(1),
        shares: Vec::new(),
        bundle: String::new(),
        network: None,
        shared: Vec::new(),
        memory: Vec::new(),
    };
    let start: Call = Call::Start { container: agent.id("c") };
    let mut frames = Vec::new();
    for (seq, call) in (1..).zip([Call::Create(Box::new(create)), start]) {
        write_frame(&mut frames, &Request { seq, call }).unwrap();
    }
    agent.send(&frames);
    for wanted in [1, 2] {
        let reply = agent.message();
        assert!(
            matches!(reply, Message::Reply { seq, result: Ok(_) } if seq == wanted),
            "{reply:?}"
        );
    }
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(0));
    let mut text = String::new();
    agent.stream(1).read_to_string(&mut text).unwrap();
    assert!(text.is_empty());
}

/// What `syscalls.sh exec` counts: as engines ask for it, with an environment and pipes, in a container that runs.
#[test]
fn an_exec_as_docker_makes_it() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start_as_first();
    let root = agent.root("root");
    agent.create("c", spec(&["sleep", "1000"]), &root, Stdio::default()).unwrap();
    agent.start_container("c").unwrap();
    let mut process = process(&["/bin/true"]);
    process["env"].as_array_mut().unwrap().push(json!("HOME=/root"));
    agent.exec("c", "x", process, all(1)).unwrap();
    assert_eq!(agent.wait("c", Some("x")).status, ExitStatus::Code(0));
    let mut text = String::new();
    agent.stream(1).read_to_string(&mut text).unwrap();
    assert!(text.is_empty());
    agent.kill("c", 9, false).unwrap();
    assert_eq!(agent.wait("c", None).status, ExitStatus::Signal(9));
    agent.delete("c").unwrap();
}

#[test]
fn a_host_is_no_template_and_keeps_its_clock() {
    if !can_run() {
        return;
    }
    for mut agent in [Agent::start(), Agent::start_as_first()] {
        let prepare = Prepare { nonce: "0".repeat(32), specs: Vec::new(), shares: Vec::new() };
        let awaken = Awaken { seed: "0".repeat(128), realtime_ns: 1 };
        for call in [Call::Prepare(Box::new(prepare)), Call::Awaken(awaken)] {
            let failure = agent.call(call).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid, "{failure}");
        }
    }
}
