//! `process`, `root`, `hostname` and the container's first look around (runtime-spec, config.md and config-linux.md).

use std::fs;

use bulkhead_tests::harness::oci::{Oci, capability_bits};
use serde_json::{Value, json};

isolations!(host: defaults, everything_changed, root_is_read_only, programs_and_paths; vm: defaults, everything_changed, root_is_read_only, programs_and_paths);

/// The mount at a point: the last one there counts.
pub(super) fn mount_at<'a>(seen: &'a Value, point: &str) -> &'a Value {
    let mounts = seen["mounts"].as_array().unwrap();
    mounts
        .iter()
        .rev()
        .find(|mount| mount["point"] == point)
        .unwrap_or_else(|| panic!("nothing is mounted on {point}: {mounts:#?}"))
}

/// Whether the mount or its file system has an option.
pub(super) fn has_option(mount: &Value, option: &str) -> bool {
    ["options", "super"]
        .iter()
        .any(|key| mount[key].as_array().unwrap().iter().any(|word| word == option))
}

/// What engines ask for by default is what the process sees.
fn defaults(oci: &Oci) {
    let mut bundle = oci.bundle("defaults");
    let masked = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"];
    let read_only = ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger"];
    let devices = [
        ("/dev/null", "1:3"),
        ("/dev/zero", "1:5"),
        ("/dev/full", "1:7"),
        ("/dev/random", "1:8"),
        ("/dev/urandom", "1:9"),
        ("/dev/tty", "5:0"),
    ];
    let links = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ];
    let paths = masked
        .iter()
        .chain(&read_only)
        .chain(devices.iter().map(|(path, _)| path))
        .chain(links.iter().map(|(path, _)| path));
    let mut wanted: Vec<String> = paths.map(|path| format!("path={path}")).collect();
    wanted.extend(["path=/".to_owned(), "list=/dev".to_owned(), "list=/proc/self/task".to_owned()]);
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let seen = oci.look("defaults", &mut bundle, &wanted);
    let status = &seen["status"];
    let few = capability_bits(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status[set], few, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!(seen["pid"], 1);
    assert_eq!(status["PPid"], "0");
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Uid"], "0 0 0 0");
    assert_eq!(status["Gid"], "0 0 0 0");
    assert_eq!(status["Umask"], "0022");
    assert_eq!(status["Seccomp"], "0");
    assert_eq!(status["SigBlk"], "0000000000000000");
    assert_eq!(seen["names"]["host"], "a-container");
    assert_eq!(seen["cwd"], "/");
    assert_eq!(seen["rlimits"]["RLIMIT_NOFILE"], json!([1024, 1024]));
    // HOME is from /etc/passwd, as every runtime sets it.
    let environment = json!([
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM=xterm",
        "HOME=/root",
    ]);
    assert_eq!(seen["env"], environment);
    let descriptors: Vec<_> = seen["descriptors"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(descriptors, ["0", "1", "2"], "{}", seen["descriptors"]);
    assert_eq!(seen["terminal"]["streams"], json!([false, false, false]));
    for (point, kind, options) in [
        ("/proc", "proc", ["rw"].as_slice()),
        ("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec", "ptmxmode=666", "mode=620", "gid=5"]),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "size=65536k"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ] {
        let mount = mount_at(&seen, point);
        assert_eq!(mount["type"], kind, "{point}");
        for option in options {
            assert!(has_option(mount, option), "{point} without {option}: {mount}");
        }
    }
    assert!(has_option(mount_at(&seen, "/proc/irq"), "ro"));
    let files = &seen["wanted"];
    for path in masked {
        let found = &files[format!("path={path}")];
        // A kernel may not have the file.
        if found["error"] != "ENOENT" {
            assert_eq!(found["read"], 0, "{path}: {found}");
        }
    }
    for path in read_only {
        let found = &files[format!("path={path}")];
        if found["error"] != "ENOENT" {
            assert_eq!(found["write"], "EROFS", "{path}: {found}");
        }
    }
    for (path, device) in devices {
        let found = &files[format!("path={path}")];
        assert_eq!(
            (&found["kind"], &found["mode"]),
            (&json!("char"), &json!("0666")),
            "{path}: {found}"
        );
        assert_eq!(found["device"], device, "{path}");
    }
    for (path, target) in links {
        assert_eq!(files[format!("path={path}")]["target"], target, "{path}");
    }
    assert_eq!(files["path=/"]["write"], 0, "the root can be written");
    for name in files["list=/dev"].as_array().unwrap() {
        let known = [
            "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
            "stderr", "stdin", "stdout", "tty", "urandom", "zero",
        ];
        assert!(known.contains(&name.as_str().unwrap()), "/dev/{name}");
    }
    assert_eq!(files["list=/proc/self/task"], json!(["1"]), "one thread");
}

/// Every property of `process` with another value.
fn everything_changed(oci: &Oci) {
    let mut bundle = oci.bundle("changed");
    fs::create_dir(bundle.rootfs().join("work")).unwrap();
    let process = &mut bundle.config["process"];
    process["user"] =
        json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6, 7000], "umask": 0o27});
    process["cwd"] = json!("/work");
    process["env"] =
        json!(["PATH=/bin", "A=b=c d", "EMPTY=", "HOME=/elsewhere", "TWICE=1", "TWICE=2"]);
    process["noNewPrivileges"] = json!(false);
    process["oomScoreAdj"] = json!(321);
    process["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_CHROOT"],
        "permitted": ["CAP_CHOWN", "CAP_NET_RAW"],
        "inheritable": ["CAP_NET_RAW"],
        "effective": ["CAP_NET_RAW"],
        "ambient": ["CAP_NET_RAW"],
    });
    process["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 8_388_608},
        {"type": "RLIMIT_NPROC", "soft": 50, "hard": 60},
        {"type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 2_000_000},
        {"type": "RLIMIT_MSGQUEUE", "soft": 1000, "hard": 2000},
    ]);
    if oci.is_bulkhead() {
        process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
        process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        bundle.config["domainname"] = json!("a-domain.example");
        bundle.config["linux"]["personality"] = json!({"domain": "LINUX32", "flags": []});
    }
    bundle.config["hostname"] = json!("another-name");
    bundle.config["linux"]["sysctl"] = json!({
        "kernel.msgmax": "4000", "net.ipv4.ip_forward": "1", "net.ipv4.ip_unprivileged_port_start": "80",
    });
    bundle.config["linux"]["maskedPaths"] =
        json!(["/work/secret", "/work/hidden", "/does/not/exist"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/work/fixed", "/does/not/exist"]);
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/my-null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 5},
        {"path": "/dev/deep/er/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0},
        {"path": "/dev/a-fifo", "type": "p", "fileMode": 0o622, "uid": 3, "gid": 4},
    ]);
    bundle.config["linux"]["resources"]["devices"] = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
    ]);
    fs::create_dir(bundle.rootfs().join("work/secret")).unwrap();
    for file in ["work/secret/key", "work/hidden", "work/fixed"] {
        fs::write(bundle.rootfs().join(file), "words").unwrap();
        set_mode(&bundle.rootfs().join(file), 0o666);
    }
    let seen = oci.look(
        "changed",
        &mut bundle,
        &[
            "path=/work/secret",
            "path=/work/hidden",
            "path=/work/fixed",
            "path=/dev/my-null",
            "path=/dev/deep/er/zero",
            "path=/dev/a-fifo",
            "path=/work",
            "sysctl=kernel.msgmax",
            "sysctl=net.ipv4.ip_forward",
            "sysctl=net.ipv4.ip_unprivileged_port_start",
        ],
    );
    let status = &seen["status"];
    assert_eq!(status["Uid"], "1000 1000 1000 1000");
    assert_eq!(status["Gid"], "1001 1001 1001 1001");
    assert_eq!(status["Groups"], "5 6 7000");
    assert_eq!(status["Umask"], "0027");
    assert_eq!(status["NoNewPrivs"], "0");
    assert_eq!(status["CapBnd"], capability_bits(&["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_CHROOT"]));
    // execve of a user other than root leaves what is ambient (capabilities(7)).
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status[set], capability_bits(&["CAP_NET_RAW"]), "{set}");
    }
    assert_eq!(seen["cwd"], "/work");
    assert_eq!(seen["oom_score_adj"], "321");
    let environment = seen["env"].as_array().unwrap();
    for variable in ["PATH=/bin", "A=b=c d", "EMPTY=", "HOME=/elsewhere", "TWICE=2"] {
        assert!(environment.iter().any(|seen| seen == variable), "{variable}: {environment:?}");
    }
    for (name, limit) in [
        ("RLIMIT_NOFILE", [100, 200]),
        ("RLIMIT_CORE", [0, 0]),
        ("RLIMIT_STACK", [4_194_304, 8_388_608]),
        ("RLIMIT_NPROC", [50, 60]),
        ("RLIMIT_FSIZE", [1_000_000, 2_000_000]),
        ("RLIMIT_MSGQUEUE", [1000, 2000]),
    ] {
        assert_eq!(seen["rlimits"][name], json!(limit), "{name}");
    }
    assert_eq!(seen["names"]["host"], "another-name");
    if oci.is_bulkhead() {
        assert_eq!(seen["names"]["domain"], "a-domain.example");
        assert_eq!(seen["names"]["machine"], "i686");
        assert_eq!(seen["personality"], "00000008");
        assert_eq!(seen["scheduler"]["policy"], 3, "SCHED_BATCH");
        assert_eq!(seen["scheduler"]["nice"], 7);
        assert_eq!(
            (&seen["scheduler"]["io_class"], &seen["scheduler"]["io_priority"]),
            (&json!(2), &json!(6))
        );
    }
    let files = &seen["wanted"];
    assert_eq!(files["path=/work/secret"]["read"], 0, "a masked directory is empty: {files}");
    assert_eq!(files["path=/work/hidden"]["read"], 0, "a masked file is empty");
    assert_eq!(files["path=/work/fixed"]["read"], 5);
    assert_eq!(files["path=/work/fixed"]["write"], "EROFS");
    let null = &files["path=/dev/my-null"];
    assert_eq!(
        (&null["mode"], &null["owner"], &null["device"]),
        (&json!("0640"), &json!("1000:5"), &json!("1:3"))
    );
    assert_eq!(null["write"], 0, "the device cgroup allows it");
    assert_eq!(files["path=/dev/deep/er/zero"]["read"], 4096);
    let fifo = &files["path=/dev/a-fifo"];
    assert_eq!(
        (&fifo["kind"], &fifo["mode"], &fifo["owner"]),
        (&json!("fifo"), &json!("0622"), &json!("3:4"))
    );
    assert_eq!(files["path=/work"]["write"], "EACCES", "it is root's");
    assert_eq!(files["sysctl=kernel.msgmax"], "4000");
    assert_eq!(files["sysctl=net.ipv4.ip_forward"], "1");
    assert_eq!(files["sysctl=net.ipv4.ip_unprivileged_port_start"], "80");
}

/// `root.readonly`, a root that is not called rootfs, and mounts that stay writable.
fn root_is_read_only(oci: &Oci) {
    let mut bundle = oci.bundle("read-only");
    fs::rename(bundle.rootfs(), bundle.path.join("another")).unwrap();
    bundle.config["root"] = json!({"path": "another", "readonly": true});
    bundle.mount("tmpfs", "tmpfs".as_ref(), "/tmp", &["size=1m", "mode=1777"]);
    // Its mount point is made although the root will be read-only.
    bundle.mount("tmpfs", "tmpfs".as_ref(), "/made/for/it", &["nodev"]);
    let seen = oci.look(
        "read-only",
        &mut bundle,
        &["path=/", "path=/etc/passwd", "path=/tmp", "path=/made/for/it", "path=/dev/shm"],
    );
    let files = &seen["wanted"];
    assert!(has_option(mount_at(&seen, "/"), "ro"), "{}", seen["mounts"]);
    assert_eq!(files["path=/"]["write"], "EROFS");
    assert_eq!(files["path=/etc/passwd"]["write"], "EROFS");
    assert_eq!(files["path=/tmp"]["write"], 0);
    assert_eq!(files["path=/made/for/it"]["write"], 0);
    assert_eq!(files["path=/dev/shm"]["write"], 0);
    assert!(has_option(mount_at(&seen, "/tmp"), "size=1024k"));
}

/// How `args[0]` is found, and exit codes of programs that cannot be executed.
fn programs_and_paths(oci: &Oci) {
    let mut bundle = oci.bundle("paths");
    fs::write(bundle.rootfs().join("usr/bin/tool"), "#!/bin/sh\necho found $0 in $PWD; exit 9\n")
        .unwrap();
    fs::write(bundle.rootfs().join("not-executable"), "#!/bin/sh\n").unwrap();
    set_mode(&bundle.rootfs().join("usr/bin/tool"), 0o755);
    bundle.args(&["tool"]);
    let outcome = oci.run_bundle("found", &bundle);
    outcome.assert_code(9);
    assert_eq!(outcome.text(), "found /usr/bin/tool in /\n", "{outcome}");
    let refusals: &[(&[&str], &str, &str)] = &[
        (&["no-such-program"], "/", "no-such-program"),
        (&["/no/such/program"], "/", "/no/such/program"),
        (&["/not-executable"], "/", "/not-executable"),
        (&["true"], "/no/such/directory", ""),
    ];
    for (args, cwd, word) in refusals {
        // A microVM is dear: one of these tells its kind.
        if oci.is_vm() && *word != "no-such-program" {
            continue;
        }
        bundle.args(args);
        bundle.config["process"]["cwd"] = json!(cwd);
        let outcome = oci.run_bundle("refused", &bundle);
        // runc makes a missing working directory.
        if !cwd.contains("no/such") {
            assert_ne!(outcome.code(), 0, "{outcome}");
            assert!(outcome.error_text().contains(word), "{outcome}");
            assert!(oci.run(&["state", "refused"]).code() != 0, "nothing is left of it");
        }
        fs::remove_dir_all(bundle.rootfs().join("no")).ok();
    }
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
