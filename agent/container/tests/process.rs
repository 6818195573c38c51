//! What a process is: user, limits, capabilities, filter, priority, terminal; and what is found wrong before there is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{fs, os::unix::fs::FileTypeExt};

use bulkhead_container::{Target, check, spec::Spec};
use serde_json::{Value, json};
use support::{Bundle, can_run};

/// A property, what a shell says of it, and what it is to say.
#[test]
fn properties_of_a_process() {
    if !can_run() {
        return;
    }
    let caps = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    // As a shell's background and nohup(1) do; the other tests of this file send themselves no signals.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: takes no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let status = "grep '^Cap' /proc/self/status | tr -d '\\t' | sed 's/0000000000//'; ";
    for (properties, script, expected) in [
        (
            json!({"user": {"uid": 1000, "gid": 100, "additionalGids": [5, 6]}}),
            "id -u; id -g; id -G; stat -c %u /proc/self/",
            "1000\n100\n100 5 6\n1000\n",
        ),
        (
            json!({"user": {"uid": 1000, "gid": 0}, "env": ["PATH=/bin"]}),
            "echo $HOME",
            "/home/me\n",
        ),
        (json!({"user": {"uid": 0, "gid": 0, "umask": 0o77}}), "umask", "0077\n"),
        (json!({}), "umask; pwd; cat /proc/self/oom_score_adj", "0022\n/\n0\n"),
        (json!({"cwd": "/new/dir"}), "pwd", "/new/dir\n"),
        (json!({}), "grep SigIgn /proc/self/status | cut -c21-", "0000\n"),
        (json!({"oomScoreAdj": 123}), "cat /proc/self/oom_score_adj", "123\n"),
        (
            json!({"noNewPrivileges": true}),
            "grep NoNew /proc/self/status | tr -d '\\t'",
            "NoNewPrivs:1\n",
        ),
        (
            json!({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 40, "hard": 50},
                            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]}),
            "ulimit -n; ulimit -Hn; ulimit -c",
            "40\n50\n0\n",
        ),
        (
            json!({"user": {"uid": 1000, "gid": 0}, "capabilities": caps}),
            status,
            "CapInh:000020\nCapPrm:000020\nCapEff:000020\nCapBnd:002021\nCapAmb:000020\n",
        ),
        (
            json!({"capabilities": {"bounding": ["CAP_KILL"]}}),
            status,
            "CapInh:000000\nCapPrm:000020\nCapEff:000020\nCapBnd:000020\nCapAmb:000000\n",
        ),
        (
            json!({"scheduler": {"policy": "SCHED_BATCH", "nice": 5}}),
            "awk '{print $19, $41}' /proc/self/stat",
            "5 3\n",
        ),
        (json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}), "ionice", "idle\n"),
    ] {
        let mut bundle = Bundle::shell(script);
        for (name, value) in properties.as_object().unwrap() {
            bundle = bundle.set(&format!("/process/{name}"), value.clone());
        }
        let ended = bundle.run().unwrap();
        assert_eq!(ended.out.replace("0000000000", ""), expected, "{properties}");
        assert_eq!(ended.code, 0);
    }
}

#[test]
fn properties_of_a_container() {
    if !can_run() {
        return;
    }
    let filter = |action: &str, errno: Value| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["mkdir", "no_such_call"], "action": action, "errnoRet": errno}],
        })
    };
    for (pointer, value, script, expected) in [
        ("/linux/personality", json!({"domain": "LINUX32"}), "uname -m", "i686\n"),
        (
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"}),
            "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
            "1\n9000\n",
        ),
        (
            "/linux/seccomp",
            filter("SCMP_ACT_ERRNO", json!(95)),
            "mkdir /x 2>&1 | sed 's/.*: //'",
            "Operation not supported\n",
        ),
        (
            "/linux/seccomp",
            filter("SCMP_ACT_KILL_PROCESS", Value::Null),
            "mkdir /x; echo $?",
            "Bad system call\n159\n",
        ),
        ("/linux/seccomp", filter("SCMP_ACT_LOG", Value::Null), "mkdir /x; echo $?", "0\n"),
        (
            "/linux/devices",
            json!([
                {"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
                {"path": "/dev/deep/pipe", "type": "p", "fileMode": 0o600},
                {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
            ]),
            "stat -c '%F %a %u:%g %t,%T' /dev/own /dev/deep/pipe /dev/null /dev/full",
            "character special file 640 7:8 1,5\nfifo 600 0:0 0,0\ncharacter special file 600 0:0 1,3\n\
             character special file 666 0:0 1,7\n",
        ),
        (
            "/root/readonly",
            json!(true),
            "for link in fd stdin stdout stderr ptmx; do readlink /dev/$link; done",
            "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n",
        ),
    ] {
        let bundle = Bundle::shell(script).set(pointer, value.clone());
        let ended = bundle.run().unwrap();
        assert_eq!(ended.out, expected, "{pointer} {value}");
    }
}

#[test]
fn a_terminal_is_the_controlling_one() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::shell(
        "tty; stty size; ls -l /dev/console | cut -c1; echo > /dev/tty && echo controlling",
    )
    .set("/process/terminal", json!(true))
    .set("/process/consoleSize", json!({"height": 33, "width": 44}));
    let mut waiting = bundle.create().unwrap();
    waiting.record.start(&waiting.socket).unwrap();
    let master = fs::File::from(waiting.console.take().unwrap());
    let mut said = Vec::new();
    // EIO when the last one who had it open is gone.
    let _ = std::io::Read::read_to_end(&mut &master, &mut said);
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said, "/dev/pts/0\r\n33 44\r\nc\r\n\r\ncontrolling\r\n");
    waiting.end();
}

#[test]
fn the_hosts_devices_stay_as_they_are() {
    if !can_run() {
        return;
    }
    let before = fs::metadata("/dev/null").unwrap();
    let bundle = Bundle::shell("echo x > /dev/null; true").set("/process/user/uid", json!(1000));
    let spec = bundle.parsed();
    let socket = bundle.dir.path().join("start.sock");
    // Standard streams of a daemon: the host's own null device.
    let builder = bulkhead_container::Builder::new(
        &bundle.platform,
        bulkhead_container::Stdio::Files([None, None, None]),
    );
    let root = bulkhead_container::Root::Directory(bundle.root());
    let detached = builder.detached(&bundle.id, &spec, root, support::listen(&socket)).unwrap();
    let record = support::copy(&detached.record);
    let (process, _) = detached.commit().unwrap();
    record.start(&socket).unwrap();
    assert_eq!(support::wait(&process), 0);
    record.remove().unwrap();
    let after = fs::metadata("/dev/null").unwrap();
    assert!(after.file_type().is_char_device());
    use std::os::unix::fs::MetadataExt;
    assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
}

#[test]
fn a_working_directory_outside_is_refused() {
    if !can_run() {
        return;
    }
    for cwd in ["/proc/self/fd/3", "/proc/1/root/etc", "/link"] {
        let bundle = Bundle::shell("pwd; ls")
            .namespaces(&["mount", "ipc", "network", "uts"])
            .set("/process/cwd", json!(cwd));
        std::os::unix::fs::symlink("/proc/1/root/usr", bundle.root().join("link")).unwrap();
        let error = bundle.create().err().unwrap().to_string();
        assert!(error.contains("process.cwd"), "{cwd}: {error}");
    }
}

#[test]
fn limits_can_be_set_in_a_user_namespace() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::shell("ulimit -n; ulimit -Hn")
        .user_namespace()
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 41, "hard": 51}]));
    assert_eq!(bundle.run().unwrap().out, "41\n51\n");
}

/// Every mistake is found before there is a process, and named by its field.
#[test]
fn mistakes_are_named() {
    let fine = Bundle::shell("true");
    check(&fine.parsed(), Target::Host).unwrap();
    check(&fine.parsed(), Target::Guest).unwrap();
    let line = |container: u32, host: u32, size: u32| json!({"containerID": container, "hostID": host, "size": size});
    for (pointer, value, field) in [
        ("/ociVersion", json!(""), "ociVersion"),
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/root", Value::Null, "root"),
        ("/root/path", json!(""), "root.path"),
        ("/process", Value::Null, "process"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", Value::Null, "process.args"),
        ("/process/cwd", json!("tmp"), "process.cwd"),
        ("/process/env", json!(["A=\u{0}"]), "process.env[0]"),
        ("/process/env", json!(["A=b", "x".repeat(1 << 20)]), "process.env[1]"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_LUCK", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
            "process.rlimits[0].soft",
        ),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/process/user", json!({"uid": u32::MAX}), "process.user"),
        ("/process/user", json!({"uid": 0, "umask": 0o1000}), "process.user.umask"),
        ("/process/scheduler", json!({"policy": "SCHED_LATE"}), "process.scheduler.policy"),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            "process.scheduler.nice",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority",
        ),
        ("/process/execCPUAffinity", json!({"final": "a"}), "process.execCPUAffinity.final"),
        ("/process/apparmorProfile", json!("mine"), "process.apparmorProfile"),
        ("/process/selinuxLabel", json!("mine"), "process.selinuxLabel"),
        ("/linux/mountLabel", json!("mine"), "linux.mountLabel"),
        ("/hostname", json!("x".repeat(65)), "hostname"),
        ("/domainname", json!("x".repeat(65)), "domainname"),
        ("/mounts", json!([{"destination": "/a/../..", "type": "tmpfs"}]), "mounts[0].destination"),
        (
            "/linux/namespaces",
            json!([{"type": "pid"}, {"type": "pid"}]),
            "linux.namespaces[1].type",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "uts"}, {"type": "ipc", "path": "/proc/self/ns/net"}]),
            "linux.namespaces[1].path",
        ),
        (
            "/linux/uidMappings",
            json!([line(0, 1, 10), line(5, 100, 1)]),
            "linux.uidMappings[1].containerID",
        ),
        ("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}), "linux.timeOffsets"),
        ("/linux/sysctl", json!({"vm.swappiness": "1"}), "linux.sysctl \"vm.swappiness\""),
        ("/linux/devices", json!([{"path": "dev/x", "type": "c"}]), "linux.devices[0].path"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "a"}]), "linux.devices[0].type"),
        ("/linux/maskedPaths", json!(["a"]), "linux.maskedPaths[0]"),
        ("/linux/readonlyPaths", json!(["/a", "/a/../../b"]), "linux.readonlyPaths[1]"),
        ("/linux/personality", json!({"domain": "HURD"}), "linux.personality.domain"),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["X"]}),
            "linux.personality.flags[0]",
        ),
        ("/linux/rootfsPropagation", json!("up"), "linux.rootfsPropagation"),
        ("/linux/intelRdt", json!({}), "linux.intelRdt"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}),
            "linux.seccomp.architectures[0]",
        ),
        ("/hooks", json!({"prestart": [{"path": "bin/sh"}]}), "hooks.prestart[0].path"),
        (
            "/hooks",
            json!({"poststop": [{"path": "/bin/sh"}, {"path": "/no/such"}]}),
            "hooks.poststop[1].path",
        ),
        (
            "/hooks",
            json!({"startContainer": [{"path": "/no/such", "timeout": -1}]}),
            "hooks.startContainer[0].timeout",
        ),
    ] {
        let bundle = Bundle::shell("true").set(pointer, value.clone());
        let error = check(&bundle.parsed(), Target::Host).expect_err(field).to_string();
        assert!(error.starts_with(field), "{pointer} {value}: {error}");
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
    }
    // A list is no object.
    for pointer in
        ["/process", "/process/capabilities", "/linux", "/linux/seccomp", "/hooks", "/root"]
    {
        let spec = Bundle::shell("true").set(pointer, json!([])).spec;
        assert!(serde_json::from_value::<Spec>(spec).is_err(), "{pointer}");
    }
    // What is not there or null is absent; what nobody knows is skipped.
    let spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.0.2", "root": {"path": "."}, "mounts": null, "hooks": null, "vm": {"x": 1},
        "process": {"args": ["a"], "cwd": "/", "env": null, "commandLine": "x", "capabilities": null,
            "user": {"username": "x"}},
        "linux": {"namespaces": null, "resources": null, "newThing": []}, "annotations": {"a": "b"},
    }))
    .unwrap();
    check(&spec, Target::Host).unwrap();
}

#[test]
fn unknown_capabilities_are_warned_of() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::shell("true").add("/process/capabilities/bounding", json!("CAP_FLY"));
    let mut waiting = bundle.create().unwrap();
    assert!(waiting.warnings.iter().any(|line| line.contains("CAP_FLY")), "{:?}", waiting.warnings);
    waiting.record.start(&waiting.socket).unwrap();
    assert_eq!(waiting.end().code, 0);
}
