//! Containers on the host's kernel: what a program sees of its world and what is seen of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    thread,
};

use bulkhead_protocol::{ExitStatus, FailureKind};
use serde_json::json;
use support::{Agent, all, can_run, shell, spec};

#[test]
fn output_and_exit_code() {
    if !can_run() {
        return;
    }
    for mut agent in [Agent::start(), Agent::start_as_first()] {
        let (out, err, status) = agent.run(shell("echo out; echo err >&2; exit 7"));
        assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
        assert_eq!(status, ExitStatus::Code(7));
        assert_eq!(agent.shutdown(), Some(0));
    }
}

#[test]
fn ten_mib_come_back_unharmed() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    agent.create("c", spec(&["cat"]), &root, all(1)).unwrap();
    agent.start_container("c").unwrap();
    let sent: Vec<u8> =
        (0..10_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stream = agent.stream(1);
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let feeder = thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    feeder.join().unwrap();
    assert!(got == sent, "{} of {} bytes came back, or others", got.len(), sent.len());
    assert_eq!(agent.wait("c", None).status, ExitStatus::Code(0));
}

#[test]
fn a_program_that_is_missing_or_no_program() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let root = agent.root("root");
    fs::write(root.join("bin/text"), "no program\n").unwrap();
    fs::write(root.join("bin/script"), "#!/no/interpreter\n").unwrap();
    for name in ["bin/script", "bin/noexec"] {
        fs::write(root.join(name), "#!/no/interpreter\n").unwrap();
    }
    std::process::Command::new("chmod")
        .args(["+x", "script"])
        .current_dir(root.join("bin"))
        .status()
        .unwrap();
    for (program, kind) in [
        ("nothing", FailureKind::ProgramNotFound),
        ("/no/such/file", FailureKind::ProgramNotFound),
        ("/etc", FailureKind::ProgramNotExecutable),
        ("/bin/text", FailureKind::ProgramNotExecutable),
        ("text", FailureKind::ProgramNotExecutable),
    ] {
        let failure = agent.create("c", spec(&[program]), &root, all(1)).unwrap_err();
        assert_eq!(failure.kind, kind, "{program}: {failure}");
        assert!(failure.message.contains(program), "{failure}");
    }
    // Only execve can tell.
    agent.create("c", spec(&["script"]), &root, all(1)).unwrap();
    let failure = agent.start_container("c").unwrap_err();
    assert_eq!(failure.kind, FailureKind::ProgramNotFound, "{failure}");
}

#[test]
fn the_world_of_a_program() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let mut spec = shell(
        "hostname; pwd; echo $NAME $HOME; id -u; id -g; id -G; umask; ulimit -n; grep ^Cap /proc/self/status; \
         grep NoNewPrivs /proc/self/status; echo $$; ls /proc/self/fd | wc -l",
    );
    spec["process"]["cwd"] = json!("/made/for/me");
    spec["process"]["user"] =
        json!({"uid": 1000, "gid": 100, "additionalGids": [7, 8], "umask": 0o27});
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]);
    spec["process"]["noNewPrivileges"] = json!(true);
    spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    let (out, err, status) = agent.run(spec);
    let lines: Vec<_> = out.lines().map(|line| line.replace('\t', " ")).collect();
    assert_eq!(
        lines,
        [
            "inside",
            "/made/for/me",
            "value /home/me",
            "1000",
            "100",
            "100 7 8",
            "0027",
            "99",
            "CapInh: 0000000000000020",
            "CapPrm: 0000000000000020",
            "CapEff: 0000000000000020",
            "CapBnd: 0000000000000021",
            "CapAmb: 0000000000000020",
            "NoNewPrivs: 1",
            "1",
            "4",
        ],
        "{err}"
    );
    assert_eq!(status, ExitStatus::Code(0));
}

#[test]
fn hidden_and_protected_paths() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let mut spec = shell(
        "wc -c < /proc/interrupts; wc -c < /proc/timer_list; ls /sys/firmware | wc -l; \
         echo 1 > /proc/sys/kernel/domainname || echo ro1; touch /file || echo ro2; touch /tmp/x && echo rw; \
         echo > /dev/null && echo null; ls -l /dev/fd; ls -l /dev/ptmx; \
         mount -t tmpfs x /tmp 2> /dev/null || echo no-mount",
    );
    spec["root"]["readonly"] = json!(true);
    spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    let (out, err, _) = agent.run(spec);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(&lines[..7], ["0", "0", "0", "ro1", "ro2", "rw", "null"], "{out} {err}");
    assert!(lines[7].ends_with("/dev/fd -> /proc/self/fd"), "{out}");
    assert!(lines[8].ends_with("/dev/ptmx -> pts/ptmx"), "{out}");
    assert_eq!(lines[9], "no-mount");
}

#[test]
fn bind_mounts() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    let volume = agent.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    let mut spec = shell(
        "cat /data/file; touch /data/new || echo ro; cat /new/name; touch /rw/made; grep ' /data ' /proc/self/mountinfo",
    );
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({"destination": "/data", "source": volume, "options": ["rbind", "ro", "nosuid"]}),
    );
    mounts.push(json!({"destination": "/new/name", "type": "bind", "source": volume.join("file")}));
    mounts.push(
        json!({"destination": "/rw", "type": "bind", "source": volume, "options": ["bind", "rw"]}),
    );
    let (out, err, _) = agent.run(spec);
    assert!(out.starts_with("contentro\ncontent"), "{out} {err}");
    assert!(out.contains("ro,nosuid"), "{out}");
    assert!(volume.join("made").exists());
    assert!(!volume.join("new").exists());
}

#[test]
fn a_filter_of_system_calls() {
    if !can_run() {
        return;
    }
    let mut agent = Agent::start();
    for no_new_privileges in [false, true] {
        let mut spec = shell("mkdir /tmp/a; echo $?; ln -s x /tmp/b; echo $?");
        spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
        });
        let (out, err, _) = agent.run(spec);
        assert!(out.starts_with("1\n"), "{out} {err}");
        assert!(err.contains("No space left on device"), "{err}");
    }
}
