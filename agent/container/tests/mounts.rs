//! Mounts: their options, where they come from and go, and what a hostile image makes of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use serde_json::json;
use support::{Bundle, can_run};

/// The options and optional fields of the mount that is on top at a path, as a container's mountinfo has them.
const SHOW: &str =
    "show() { grep \" $1 \" /proc/self/mountinfo | tail -1 | sed 's/ - .*//' | cut -d' ' -f6-; }; ";

fn outside(bundle: &Bundle, name: &str) -> String {
    let path = bundle.dir.path().join(name);
    fs::create_dir_all(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn options_of_file_systems() {
    if !can_run() {
        return;
    }
    for (options, expected) in [
        (&["nosuid", "nodev", "noexec", "ro"][..], "ro,nosuid,nodev,noexec,relatime"),
        (&["noatime", "rw", "size=1m", "mode=700"], "rw,noatime"),
        (&["nosymfollow", "nodiratime"], "rw,nodiratime,relatime,nosymfollow"),
        (&["ro", "rw", "nosuid", "suid", "defaults"], "rw,relatime"),
        (&["strictatime"], "rw"),
        (&["rshared"], "rw,relatime shared:N"),
        (&["private", "unbindable"], "rw,relatime unbindable"),
    ] {
        let script = format!("{SHOW} show /tmp/a");
        let bundle = Bundle::shell(&script).mount("/tmp/a", "tmpfs", "tmpfs", options);
        let ended = bundle.run().unwrap();
        let out = ended.out.trim().split_inclusive(':').next().unwrap().to_owned();
        let out = if out.ends_with(':') { format!("{out}N") } else { out };
        assert_eq!(out, expected, "{options:?} {ended:?}");
    }
}

#[test]
fn options_of_bind_mounts() {
    if !can_run() {
        return;
    }
    // The source has a file system below it, which only a recursive option reaches.
    for (options, top, below) in [
        (&["rbind"][..], "rw,relatime", Some("rw,nosuid,relatime")),
        (&["bind"], "rw,relatime", None),
        (&["rbind", "ro"], "ro,relatime", Some("rw,nosuid,relatime")),
        (&["rbind", "rro"], "ro,relatime", Some("ro,nosuid,relatime")),
        (&["rbind", "ro", "rnoexec"], "ro,noexec,relatime", Some("rw,nosuid,noexec,relatime")),
        (&["rbind", "rsuid", "noexec"], "rw,noexec,relatime", Some("rw,relatime")),
        (&["rbind", "rnoatime"], "rw,noatime", Some("rw,nosuid,noatime")),
        (
            &["rbind", "rnosymfollow"],
            "rw,relatime,nosymfollow",
            Some("rw,nosuid,relatime,nosymfollow"),
        ),
        (&["rbind", "rslave"], "rw,relatime", Some("rw,nosuid,relatime")),
        (&["bind", "rshared"], "rw,relatime shared", None),
    ] {
        let script = format!("{SHOW} show /data; show /data/below");
        let mut bundle = Bundle::shell(&script);
        let source = outside(&bundle, "source");
        fs::create_dir(Path::new(&source).join("below")).unwrap();
        // Made inside the first mount: by a tmpfs of the container, then bound again.
        bundle =
            bundle.mount("/src", "tmpfs", "tmpfs", &[]).mount("/data", "bind", &source, options);
        let mount = || {
            let below = format!("{source}/below");
            for (what, on, extra) in [
                (source.as_str(), source.as_str(), None),
                ("tmpfs", below.as_str(), Some("nosuid")),
            ] {
                let mut mount = Command::new("mount");
                match extra {
                    Some(option) => mount.args(["-t", "tmpfs", "-o", option]),
                    None => mount.arg("--bind"),
                };
                assert!(mount.args([what, on]).status().unwrap().success());
            }
        };
        mount();
        let ended = bundle.run();
        for on in [format!("{source}/below"), source.clone()] {
            assert!(Command::new("umount").arg(on).status().unwrap().success());
        }
        let ended = ended.unwrap();
        // Peer groups have numbers of no meaning here.
        let clean = |line: &str| {
            let mut words: Vec<_> =
                line.split(' ').map(|word| word.split(':').next().unwrap()).collect();
            words.retain(|word| *word != "master");
            words.join(" ").trim().to_owned()
        };
        let lines: Vec<_> = ended.out.lines().map(clean).collect();
        let expected: Vec<_> = [Some(top), below].into_iter().flatten().collect();
        assert_eq!(lines, expected, "{options:?}");
    }
}

#[test]
fn files_directories_and_what_is_missing() {
    if !can_run() {
        return;
    }
    let script = "cat /etc/conf /deep/er/file; ls /data/in; echo w > /data/in/written; \
        echo no > /etc/conf && echo wrote; ls -ld /data/in | cut -c1-10";
    let bundle = Bundle::shell(script);
    let source = outside(&bundle, "source");
    fs::create_dir(Path::new(&source).join("sub")).unwrap();
    fs::write(Path::new(&source).join("file"), "content\n").unwrap();
    let file = format!("{source}/file");
    let bundle = bundle
        .mount("/etc/conf", "", &file, &["bind", "ro"])
        // Relative to the bundle.
        .mount("/deep/er/file", "none", "source/file", &["bind"])
        .mount("/data", "tmpfs", "tmpfs", &["ro"])
        .mount("/data2", "bind", &source, &["rbind"]);
    let error = bundle.create().err();
    assert!(error.is_none(), "{error:?}");
    let bundle = Bundle::shell(script)
        .mount("/etc/conf", "", &file, &["bind", "ro"])
        .mount("/deep/er/file", "none", &file, &["bind"])
        .mount("/data", "tmpfs", "tmpfs", &[])
        .mount("/data/in", "bind", &source, &["rbind"]);
    let ended = bundle.run().unwrap();
    assert!(ended.out.starts_with("content\ncontent\nfile\nsub\n"), "{ended:?}");
    assert!(ended.out.contains("Read-only") && !ended.out.contains("wrote"), "{ended:?}");
    assert_eq!(fs::read_to_string(format!("{source}/written")).unwrap(), "w\n");
    let missing = Bundle::shell("true").mount("/x", "bind", "/no/such/source", &["bind"]);
    let error = missing.create().err().unwrap().to_string();
    assert!(error.contains("mounts[4].source \"/no/such/source\""), "{error}");
}

#[test]
fn a_remount_changes_what_is_there() {
    if !can_run() {
        return;
    }
    let script = format!("{SHOW} show /tmp/a; show /proc");
    let bundle = Bundle::shell(&script)
        .mount("/tmp/a", "tmpfs", "tmpfs", &["nosuid"])
        .mount("/tmp/a", "tmpfs", "tmpfs", &["remount", "ro", "nosuid"])
        .mount("/proc", "proc", "proc", &["remount", "bind", "ro", "nodev"]);
    let ended = bundle.run().unwrap();
    assert_eq!(ended.out, "ro,nosuid,relatime\nro,nodev,relatime\n");
}

#[test]
fn a_tmpfs_copies_what_it_covers_and_has_its_mode() {
    if !can_run() {
        return;
    }
    let script = "cat /stuff/sub/file; readlink /stuff/link; stat -c %a:%u:%g /stuff/sub /stuff /open; \
        echo changed > /stuff/sub/file; ls /open";
    let bundle = Bundle::shell(script);
    let root = bundle.root();
    fs::create_dir_all(root.join("stuff/sub")).unwrap();
    fs::create_dir(root.join("open")).unwrap();
    fs::write(root.join("open/hidden"), "").unwrap();
    fs::set_permissions(root.join("open"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.join("stuff"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::write(root.join("stuff/sub/file"), "text\n").unwrap();
    std::os::unix::fs::chown(root.join("stuff/sub"), Some(7), Some(8)).unwrap();
    symlink("/etc/passwd", root.join("stuff/link")).unwrap();
    let bundle = bundle.mount("/stuff", "tmpfs", "tmpfs", &["tmpcopyup"]).mount(
        "/open",
        "tmpfs",
        "tmpfs",
        &["size=1m"],
    );
    let ended = bundle.run().unwrap();
    assert_eq!(ended.out, "text\n/etc/passwd\n755:7:8\n751:0:0\n1777:0:0\n");
    assert_eq!(fs::read_to_string(root.join("stuff/sub/file")).unwrap(), "text\n");
}

#[test]
fn mounts_with_mapped_owners() {
    if !can_run() {
        return;
    }
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let script = "stat -c %u:%g /data/file; echo x > /data/new; stat -c %u /data/new";
    // In a user namespace the map makes the owners those that the container sees.
    for (in_user_namespace, own_map, expected) in
        [(true, false, "5:5\n0\n"), (true, true, "5:5\n0\n"), (false, true, "100005:100005\n")]
    {
        let mut bundle = Bundle::shell(script);
        let source = outside(&bundle, "source");
        fs::write(format!("{source}/file"), "").unwrap();
        std::os::unix::fs::chown(format!("{source}/file"), Some(5), Some(5)).unwrap();
        if in_user_namespace {
            bundle = bundle.user_namespace();
        }
        let options: &[&str] = if own_map { &["bind"] } else { &["bind", "idmap"] };
        bundle = bundle.mount("/data", "bind", &source, options);
        if own_map {
            bundle = bundle
                .set("/mounts/4/uidMappings", map.clone())
                .set("/mounts/4/gidMappings", map.clone());
        }
        let ended = bundle.run().unwrap();
        assert!(ended.out.starts_with(expected), "{in_user_namespace} {own_map}: {ended:?}");
        if in_user_namespace {
            assert_eq!(fs::metadata(format!("{source}/new")).unwrap().uid(), 0);
        }
    }
    let bundle = Bundle::shell("true").mount("/data", "bind", "/tmp", &["bind", "idmap"]);
    let error = bundle.create().err().unwrap().to_string();
    assert!(error.starts_with("mounts[4].uidMappings"), "{error}");
}

#[test]
fn control_groups_of_this_host() {
    if !can_run() {
        return;
    }
    for namespace in [true, false] {
        for option in ["rw", "ro"] {
            let script = "cd /sys/fs/cgroup; if [ -e cgroup.procs ]; then cat cgroup.procs; else \
                for d in */; do cat $d/cgroup.procs | sort -n | head -1; done | sort -u; fi; \
                mkdir x 2>/dev/null || echo read-only";
            let mut bundle = Bundle::shell(script).mount(
                "/sys/fs/cgroup",
                "cgroup",
                "cgroup",
                &["nosuid", "noexec", "nodev", "relatime", option],
            );
            if namespace {
                bundle = bundle.add("/linux/namespaces", json!({"type": "cgroup"}));
            }
            let ended = bundle.run().unwrap();
            // In each hierarchy the container's first process is in the group that is the root of what is seen.
            assert!(ended.out.starts_with("1\n"), "{namespace} {option}: {ended:?}");
            assert_eq!(ended.out.contains("read-only"), option == "ro", "{ended:?}");
        }
    }
}

#[test]
fn links_of_the_image_lead_nowhere() {
    if !can_run() {
        return;
    }
    for (link, target) in [
        ("escape", "../../../../../../../../tmp"),
        ("escape", "/proc/1/root/tmp"),
        ("escape", "/proc/self/root/tmp"),
        ("escape", "/proc/self/cwd/../../../tmp"),
    ] {
        for shares_processes in [false, true] {
            let marker = format!("engine-mark-{}", std::process::id());
            let mut bundle = Bundle::shell("true");
            if shares_processes {
                bundle = bundle.namespaces(&["mount", "ipc", "network", "uts"]);
            }
            symlink(target, bundle.root().join(link)).unwrap();
            let source = outside(&bundle, "source");
            let destination = format!("/{link}/{marker}/deep");
            let bundle = bundle.mount(&destination, "bind", &source, &["bind"]);
            // It works in the container's own tree, or fails; the outside stays as it is.
            let _ = bundle.run();
            assert!(!Path::new("/tmp").join(&marker).exists(), "{target}");
        }
    }
    // Devices are not made through a link either.
    let bundle = Bundle::shell("true").namespaces(&["mount", "ipc", "network", "uts"]);
    let trap = tempfile::tempdir().unwrap();
    let path = trap.path().to_str().unwrap();
    let mut bundle = bundle;
    bundle.spec["mounts"].as_array_mut().unwrap().truncate(1);
    fs::remove_dir(bundle.root().join("dev")).unwrap();
    symlink(format!("/proc/1/root{path}"), bundle.root().join("dev")).unwrap();
    let _ = bundle.run();
    assert_eq!(fs::read_dir(trap.path()).unwrap().count(), 0);
}

#[test]
fn propagation_of_the_root() {
    if !can_run() {
        return;
    }
    for (propagation, expected) in [
        ("", ""),
        ("private", ""),
        ("rprivate", ""),
        ("shared", "shared"),
        ("unbindable", "unbindable"),
    ] {
        let bundle = Bundle::shell("awk '$5 == \"/\"' /proc/self/mountinfo | sed 's/ - .*//'")
            .set("/linux/rootfsPropagation", json!(propagation));
        let ended = bundle.run().unwrap();
        let fields =
            ended.out.lines().next().unwrap().split(' ').skip(6).collect::<Vec<_>>().join(" ");
        assert!(fields.starts_with(expected), "{propagation}: {ended:?}");
        if expected.is_empty() {
            assert!(!fields.contains("shared"), "{propagation}: {ended:?}");
        }
    }
    let bad = Bundle::shell("true").set("/linux/rootfsPropagation", json!("upwards"));
    let error = bad.create().err().unwrap().to_string();
    assert!(error.starts_with("linux.rootfsPropagation"), "{error}");
}

#[test]
fn masked_and_read_only() {
    if !can_run() {
        return;
    }
    let script = "cat /proc/version | wc -c; cat /etc/passwd; ls /root; \
        echo 1 > /proc/sys/kernel/panic || echo kept; touch /bin/x || echo kept; touch /tmp/y && echo fine; \
        touch /root/z || echo kept";
    let bundle = Bundle::shell(script)
        .set(
            "/linux/maskedPaths",
            json!(["/proc/version", "/etc/passwd", "/root", "/no/such", "/etc/passwd/x"]),
        )
        .set("/linux/readonlyPaths", json!(["/proc/sys", "/bin", "/no/such"]));
    fs::write(bundle.root().join("root/secret"), "").unwrap();
    let ended = bundle.run().unwrap();
    let said: Vec<_> = ended.out.lines().filter(|line| !line.contains(": ")).collect();
    assert_eq!(said, ["0", "kept", "kept", "fine", "kept"], "{ended:?}");

    let bundle = Bundle::shell("touch /x || echo kept; touch /tmp/x && echo fine")
        .mount("/tmp", "tmpfs", "tmpfs", &[])
        .set("/root/readonly", json!(true));
    let ended = bundle.run().unwrap();
    assert!(ended.out.ends_with("kept\nfine\n"), "{ended:?}");
}

#[test]
fn the_root_is_moved_where_it_cannot_be_pivoted() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::shell("ls -d /work /bin; ls /.. | head -1; readlink /proc/1/exe");
    let mut waiting = bundle.create_with(|builder| builder.without_pivot(true)).unwrap();
    waiting.record.start(&waiting.socket).unwrap();
    let ended = waiting.end();
    let said: Vec<_> = ended.out.lines().filter(|line| !line.contains("No such")).collect();
    assert_eq!(said, ["/bin", "bin", "/bin/busybox"], "{ended:?}");
}
