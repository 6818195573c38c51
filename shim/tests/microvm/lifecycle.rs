//! A container's life.

use std::{fs, io::Write, time::Duration};

use bulkhead::sandbox::Status;
use serde_json::{Value, json};

use crate::{
    bundle::{Bundle, process},
    helper::REFUSED,
    running::{Maker, cgroups_with, children, finish, processes_with, until},
};

/// Everything that can be found wrong before a machine is started.
pub(crate) fn refusals_need_no_machine() {
    for (change, word) in [
        (
            json!({ "mounts": [{ "destination": "/x", "type": "bind", "source": "/no/such" }] }),
            "stat /no/such: no such file or directory",
        ),
        (
            json!({ "mounts": [{ "destination": "/x", "type": "bind", "source": "/proc/1" }] }),
            "mounts[0].source",
        ),
        (
            json!({ "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid", "path": "/proc/1/ns/pid" }] } }),
            "linux.namespaces[1].path",
        ),
        (
            json!({ "linux": { "namespaces": [{ "type": "mount" }, { "type": "network", "path": "/no/such" }] } }),
            "join the network namespace /no/such",
        ),
        (json!({ "root": { "path": "nowhere" } }), "root.path"),
        (json!({ "hooks": { "prestart": [{ "path": "/bin/false" }] } }), "hooks.prestart[0]"),
        (
            json!({ "hooks": { "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo no way >&2; exit 3"] }] } }),
            "no way",
        ),
    ] {
        let bundle = Bundle::new(&["true"]).with(|config| {
            for (key, value) in change.as_object().unwrap() {
                config[key] = value.clone();
            }
        });
        let id = "refused-container";
        let mut maker = Maker::begin(&bundle, id);
        let code = maker.child.wait().unwrap().code();
        assert_eq!(code, Some(i32::from(REFUSED)), "{change}");
        let error = maker.error();
        assert!(error.contains(word), "{change}: {error}");
        assert_eq!(leftovers(&bundle, id), Vec::<String>::new(), "{change}");
    }
}

pub(crate) fn a_container_lives_and_leaves_nothing() {
    let id = "bulkhead-test-lives";
    let script = "trap 'echo got TERM; exit 7' TERM; cat; echo begun; while :; do sleep 1; done";
    let log = tempfile::NamedTempFile::new().unwrap();
    let hook = |name: &str| {
        let words = format!(
            "cat >> {0}; echo {name} >> {0}; ls -l /proc/self/ns/net >> {0}",
            log.path().display()
        );
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", words] }])
    };
    let bundle = Bundle::new(&["sh", "-c", script]).with(|config| {
        config["hooks"] =
            json!({ "prestart": hook("prestart"), "createContainer": hook("createContainer") });
        config["hostname"] = json!("microvm");
        config["annotations"] = json!({ "of": "the host" });
        config["linux"]["resources"]["memory"] = json!({ "limit": 100 << 20 });
    });
    let mut maker = Maker::create(&bundle, id);
    let pid = maker.pid();

    // What the host sees of it.
    assert_eq!(maker.status(), Status::Created);
    let hooks = fs::read_to_string(log.path()).unwrap();
    assert!(
        hooks.contains(&format!("\"pid\":{pid}")) && hooks.contains("\"status\":\"creating\""),
        "{hooks}"
    );
    assert!(hooks.contains("\"of\":\"the host\"") && hooks.contains("createContainer"), "{hooks}");
    let network = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network, fs::read_link("/proc/self/ns/net").unwrap());
    assert!(hooks.contains(network.to_str().unwrap()), "{hooks}");
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(id), "{groups}");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(open < 24, "{open} descriptors are open");
    let [vmm] = children(pid).try_into().expect("one child, the VMM");
    assert!(fs::read_to_string(format!("/proc/{vmm}/cgroup")).unwrap().contains(id));

    maker.with(|sandbox| sandbox.start()).unwrap();
    assert_eq!(maker.status(), Status::Running);
    let again = maker.with(|sandbox| sandbox.start()).unwrap_err().to_string();
    assert!(again.contains("cannot start a container"), "{again}");
    let counted = bulkhead::sandbox::vm::counters(&maker.dir).unwrap();
    assert!(counted.exits > 0 && counted.share_requests > 0, "{counted:?}");

    // Input, half-closed, comes back; then the program goes on.
    let mut input = maker.child.stdin.take().unwrap();
    input.write_all(b"through\n").unwrap();
    drop(input);

    joined_processes(&maker);
    frozen(&maker);

    println!("  thawed");
    // Several at once.
    let many: Vec<_> =
        (0..4).map(|n| maker.exec(&process(&["sh", "-c", &format!("cat; exit {n}")]))).collect();
    for (n, mut child) in many.into_iter().enumerate() {
        child.stdin.take().unwrap().write_all(format!("n{n}").as_bytes()).unwrap();
        let (code, output, errors) = finish(child);
        assert_eq!((code, output), (i32::try_from(n).unwrap(), format!("n{n}")), "{errors}");
    }

    println!("  several at once");
    // The end.
    let refused = maker.with(|sandbox| sandbox.kill(99, false)).unwrap_err().to_string();
    assert!(refused.contains("99"), "{refused}");
    memory(pid, vmm);
    maker.with(|sandbox| sandbox.kill(15, false)).unwrap();
    let mut output = String::new();
    std::io::Read::read_to_string(&mut maker.child.stdout.take().unwrap(), &mut output).unwrap();
    let code = maker.child.wait().unwrap().code();
    assert_eq!((code, output.as_str()), (Some(7), "through\nbegun\ngot TERM\n"), "{}", maker.log());
    assert_eq!(maker.status(), Status::Stopped);
    let late = maker.with(|sandbox| sandbox.kill(15, false)).unwrap_err().to_string();
    assert!(late.contains("container not running"), "{late}");
    assert!(!maker.with(|sandbox| sandbox.oom_killed()).unwrap());
    let timeline: Value =
        serde_json::from_slice(&fs::read(maker.dir.join("timeline.json")).unwrap()).unwrap();
    let steps: Vec<&str> = timeline["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    println!("  {timeline}");
    for step in [
        "request",
        "vmm-spawned",
        "kernel-entry",
        "agent-ready",
        "created",
        "program-entry",
        "ended",
    ] {
        assert!(steps.contains(&step), "{step} in {steps:?}");
    }
    for _ in 0..2 {
        maker.with(|sandbox| sandbox.remove()).unwrap();
    }
    assert_eq!(leftovers(&bundle, id), Vec::<String>::new());
}

fn joined_processes(maker: &Maker) {
    let (code, output, errors) = maker.run(&process(&[
        "sh",
        "-c",
        "echo out; echo error >&2; cat /proc/sys/kernel/hostname; exit 5",
    ]));
    assert_eq!((code, output.as_str(), errors.as_str()), (5, "out\nmicrovm\n", "error\n"));
    println!("  joined");
    // Much output, all of it before the code.
    let (code, output, _) = maker.run(&process(&["dd", "if=/dev/zero", "bs=64k", "count=8"]));
    assert_eq!((code, output.len()), (0, 512 << 10));
    // Not there, not executable.
    for (program, kind) in [("/bin/none", "ProgramNotFound"), ("/etc", "ProgramNotExecutable")] {
        let (code, _, _) = maker.run(&process(&[program]));
        assert_eq!(code, i32::from(REFUSED));
        assert!(maker.error().contains(kind), "{program}: {}", maker.error());
    }
    let (code, _, _) = maker.run(&json!({ "cwd": "/", "args": 5 }));
    assert_eq!(code, i32::from(REFUSED));
    assert!(maker.error().contains("process.args"), "{}", maker.error());
    println!("  refused");
    // Signals to the proxy go to the process, and its code comes back.
    let script = "trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.1; done";
    let mut child = maker.exec(&process(&["sh", "-c", script]));
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let proxy = children(i32::try_from(child.id()).unwrap());
    kill(proxy[0], 10);
    let (code, output, _) = finish(child);
    assert_eq!((code, output.as_str()), (9, "usr1\n"));
    println!("  signalled");
    // A background child that holds the output does not hold the end up.
    let begun = std::time::Instant::now();
    let (code, output, _) = maker.run(&process(&["sh", "-c", "sleep 300 & echo done"]));
    assert_eq!((code, output.as_str()), (0, "done\n"));
    assert!(begun.elapsed() < Duration::from_secs(100));
    println!("  in the background");
    // A killed proxy's process is killed.
    let mut child = maker.exec(&process(&["sh", "-c", "echo here; exec sleep 4321"]));
    let mut here = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut here).unwrap();
    let commands = || {
        let processes = maker.with(|sandbox| sandbox.processes()).unwrap();
        processes.into_iter().map(|process| process.command).collect::<Vec<_>>()
    };
    // While it executes, it has no command line.
    until("the process is seen", || commands().iter().any(|command| command.contains("4321")));
    kill(children(i32::try_from(child.id()).unwrap())[0], 9);
    let (code, _, _) = finish(child);
    assert_eq!(code, 137);
    until("the process is killed", || !commands().iter().any(|command| command.contains("4321")));
    println!("  killed");
    // Limits and figures.
    let stats = maker.with(|sandbox| sandbox.stats()).unwrap();
    let stats = serde_json::to_value(stats).unwrap();
    assert!(stats["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{stats}");
    assert_eq!(stats["pids"]["limit"], 64, "{stats}");
    let warnings = maker
        .with(|sandbox| sandbox.update(&json!({ "pids": { "limit": 50 }, "cpu": { "cpus": "0" } })))
        .unwrap();
    assert!(warnings.iter().any(|line| line.contains("cpu.cpus")), "{warnings:?}");
    let stats = serde_json::to_value(maker.with(|sandbox| sandbox.stats()).unwrap()).unwrap();
    assert_eq!(stats["pids"]["limit"], 50, "{stats}");
}

fn frozen(maker: &Maker) {
    maker.with(|sandbox| sandbox.pause()).unwrap();
    assert_eq!(maker.status(), Status::Paused);
    println!("  frozen");
    // Asked although its processors stand still.
    assert!(!maker.with(|sandbox| sandbox.processes()).unwrap().is_empty());
    maker.with(|sandbox| sandbox.update(&json!({ "pids": { "limit": 49 } }))).unwrap();
    // Delivered when it goes on; the shell has no use for it.
    maker.with(|sandbox| sandbox.kill(libc::SIGCONT, false)).unwrap();
    let (code, _, _) = maker.run(&process(&["true"]));
    assert_eq!(code, i32::from(REFUSED));
    assert!(maker.error().contains("paused"), "{}", maker.error());
    assert_eq!(maker.status(), Status::Paused);
    maker.with(|sandbox| sandbox.resume()).unwrap();
    assert_eq!(maker.status(), Status::Running);
    assert_eq!(maker.run(&process(&["echo", "thawed"])).1, "thawed\n");
}

/// What is resident of the monitor and the VMM.
fn memory(monitor: i32, vmm: i32) {
    for (name, pid) in [("monitor", monitor), ("VMM", vmm)] {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let of = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        println!(
            "  {name}: Rss {} KiB, Pss {} KiB, private {} KiB",
            of("Rss:"),
            of("Pss:"),
            of("Private_Dirty:")
        );
        // Unoptimized programs touch more of their own pages.
        if name == "monitor" {
            let bound = if cfg!(debug_assertions) { of("Private_Dirty:") } else { of("Rss:") };
            assert!(bound < 5 << 10, "{text}");
        }
    }
}

pub(crate) fn the_program_cannot_be_found() {
    let id = "bulkhead-test-missing";
    // With an image as its root.
    let bundle = Bundle::new(&["no-such-program"]).pack();
    let mut maker = Maker::begin(&bundle, id);
    until("the refusal", || {
        maker.dir.join("record").exists() || maker.child.try_wait().unwrap().is_some()
    });
    let error = if maker.dir.join("record").exists() {
        let error = maker.with(|sandbox| sandbox.start()).unwrap_err();
        maker.child.wait().unwrap();
        maker.with(|sandbox| sandbox.remove()).unwrap();
        format!("{error:?}")
    } else {
        maker.error()
    };
    assert!(error.contains("ProgramNotFound") && error.contains("no-such-program"), "{error}");
    assert_eq!(leftovers(&bundle, id), Vec::<String>::new());
}

pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: takes no pointers.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// What is left of a container that was removed.
pub(crate) fn leftovers(bundle: &Bundle, id: &str) -> Vec<String> {
    let mut left: Vec<String> =
        cgroups_with(id).into_iter().map(|path| path.display().to_string()).collect();
    let path = bundle.path().to_str().unwrap();
    left.extend(processes_with(path).into_iter().map(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("process {pid} {}", String::from_utf8_lossy(&words))
    }));
    for name in ["monitor.sock", "vsock", "vm.json"] {
        if bundle.state().join(name).exists() {
            left.push(name.to_owned());
        }
    }
    left
}
