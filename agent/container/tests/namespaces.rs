//! Namespaces by flag, by path and inherited, on this host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use serde_json::json;
use support::{Bundle, can_run};

const KINDS: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

fn own(file: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{file}")).unwrap().to_str().unwrap().to_owned()
}

/// A process in namespaces of its own, until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(options: &[&str]) -> Self {
        let mut holder = Command::new("unshare")
            .args(options)
            .args(["sh", "-c", "echo; exec sleep 1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
        Self(holder)
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/ns/{file}", self.0.id())
    }

    fn link(&self, file: &str) -> String {
        fs::read_link(self.path(file)).unwrap().to_str().unwrap().to_owned()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn each_type_new_and_inherited() {
    if !can_run() {
        return;
    }
    for (kind, file) in KINDS {
        // A proc of the container's PID namespace can be mounted only with a mount namespace to mount it in.
        for new in [true, false] {
            let kinds: Vec<_> = KINDS
                .iter()
                .map(|(kind, _)| *kind)
                .filter(|other| new || *other != kind)
                .filter(|other| *other != "uts" || kind == "uts" || new)
                .collect();
            let mut bundle = Bundle::new(&["readlink", &format!("/proc/self/ns/{file}")]);
            bundle.spec.as_object_mut().unwrap().remove("hostname");
            let ended = bundle.namespaces(&kinds).run().unwrap();
            assert_eq!(ended.code, 0, "{kind} {new} {ended:?}");
            assert_eq!(ended.out.trim() != own(file), new, "{kind} {new}: {}", ended.out);
        }
    }
}

#[test]
fn each_type_by_path() {
    if !can_run() {
        return;
    }
    let holder = Holder::new(&["--net", "--mount", "--ipc", "--uts", "--cgroup", "--time"]);
    let inner = Holder::new(&["--pid", "--fork", "--kill-child"]);
    for (kind, file) in KINDS {
        let (path, expected) = if kind == "pid" {
            let path = inner.path("pid_for_children");
            let link = fs::read_link(&path).unwrap().to_str().unwrap().to_owned();
            (path, link)
        } else {
            (holder.path(file), holder.link(file))
        };
        let mut kinds: Vec<_> = KINDS
            .iter()
            .map(|(kind, _)| (*kind).to_owned())
            .filter(|other| other != kind && other != "uts")
            .collect();
        kinds.push(format!("{kind}={path}"));
        let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
        let script = format!("readlink /proc/self/ns/{file}; ls /bin/busybox");
        let mut bundle = Bundle::shell(&script).namespaces(&kinds);
        bundle.spec.as_object_mut().unwrap().remove("hostname");
        let ended = bundle.run().unwrap();
        assert_eq!(ended.out, format!("{expected}\n/bin/busybox\n"), "{kind}");
    }
}

#[test]
fn a_joined_user_namespace_owns_what_is_new() {
    if !can_run() {
        return;
    }
    // A container whose user, network and IPC namespaces another one joins, as in a pod.
    let first = Bundle::shell("sleep 1000").user_namespace();
    let mut waiting = first.create().unwrap();
    waiting.record.start(&waiting.socket).unwrap();
    let path = |file: &str| format!("/proc/{}/ns/{file}", waiting.record.pid());
    let kinds = [
        format!("network={}", path("net")),
        format!("user={}", path("user")),
        format!("ipc={}", path("ipc")),
        "pid".to_owned(),
        "uts".to_owned(),
        "mount".to_owned(),
    ];
    let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; echo made > /tmp/made; echo $$; \
                  readlink /proc/self/ns/net; hostname";
    let second = Bundle::shell(script).namespaces(&kinds);
    second.give_root();
    let ended = second.run().unwrap();
    let net = fs::read_link(path("net")).unwrap();
    let expected = format!("0\n 0 100000 65536\n1\n{}\ninside\n", net.display());
    assert_eq!(ended.out, expected);
    waiting.record.signal(9).unwrap();
    waiting.end();
}

#[test]
fn a_new_user_namespace_with_a_joined_network() {
    if !can_run() {
        return;
    }
    let holder = Holder::new(&["--net"]);
    let net = format!("network={}", holder.path("net"));
    let bundle = Bundle::shell("id -u; readlink /proc/self/ns/net")
        .namespaces(&["pid", "mount", "ipc", "uts", &net])
        .user_namespace();
    let ended = bundle.run().unwrap();
    assert_eq!(ended.out, format!("0\n{}\n", holder.link("net")));
}

#[test]
fn a_user_namespace_owns_its_container() {
    if !can_run() {
        return;
    }
    let script = "id -u; stat -c %u /bin /proc/1 /dev/null /dev/pts /dev/shm; echo a > /dev/null; \
        echo b > /tmp/file; mount -t tmpfs none /tmp; cat /proc/self/uid_map | tr -s ' '; \
        id -g; chown 5:5 /tmp && stat -c %u:%g /tmp";
    let bundle = Bundle::shell(script)
        .user_namespace()
        .set("/process/capabilities/bounding", json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]))
        .set("/process/capabilities/effective", json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]))
        .set("/process/capabilities/permitted", json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]));
    let waiting = bundle.create().unwrap();
    waiting.record.start(&waiting.socket).unwrap();
    let mut waiting = waiting;
    let ended = waiting.end();
    // The device is the host's own, whose owner is nobody here.
    assert_eq!(ended.out, "0\n0\n0\n65534\n0\n0\n 0 100000 65536\n0\n5:5\n");
    let meta = fs::metadata(bundle.root().join("tmp/file")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 100_000);

    // A process that joins it is root there, too.
    let bundle = Bundle::shell("sleep 1000").user_namespace();
    let mut waiting = bundle.create().unwrap();
    waiting.record.start(&waiting.socket).unwrap();
    for (uid, script, expected) in
        [(0, "id -u; echo x > /tmp/x; stat -c %u /tmp/x", "0\n0\n"), (1000, "id -u", "1000\n")]
    {
        let mut process = support::process(&["sh", "-c", script]);
        process["user"]["uid"] = json!(uid);
        assert_eq!(bundle.exec(&waiting.record, process).unwrap().out, expected);
    }
    waiting.record.signal(9).unwrap();
    waiting.end();
}

#[test]
fn without_a_mount_namespace_nothing_stays_mounted() {
    if !can_run() {
        return;
    }
    let bundle = Bundle::shell("sleep 1000").namespaces(&["pid", "ipc", "network", "uts"]);
    let mounted = || {
        let root = bundle.root();
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|line| line.contains(root.to_str().unwrap())).count()
    };
    let mut waiting = bundle.create().unwrap();
    waiting.record.start(&waiting.socket).unwrap();
    assert!(mounted() >= 5);
    let joined = bundle.exec(&waiting.record, support::process(&["ls", "/"])).unwrap();
    assert!(joined.out.starts_with("bin\ndev\n"), "{joined:?}");
    waiting.record.signal(9).unwrap();
    waiting.end();
    assert_eq!(mounted(), 0);
    // A create that fails takes them away, too.
    let bundle = Bundle::new(&["nothing"]).namespaces(&["pid", "ipc", "network", "uts"]);
    bundle.create().err().unwrap();
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!all.contains(bundle.root().to_str().unwrap()));
}

#[test]
fn names_and_clocks() {
    if !can_run() {
        return;
    }
    let bundle =
        Bundle::shell("hostname; cat /proc/sys/kernel/domainname; cut -d. -f1 /proc/uptime")
            .set("/domainname", json!("far"))
            .add("/linux/namespaces", json!({"type": "time"}))
            .set("/linux/timeOffsets/boottime", json!({"secs": 500_000_000, "nanosecs": 1}));
    let ended = bundle.run().unwrap();
    let lines: Vec<_> = ended.out.lines().collect();
    assert_eq!(lines[..2], ["inside", "far"]);
    assert!(lines[2].parse::<u64>().unwrap() >= 500_000_000, "{ended:?}");
    let none = Bundle::shell("true").namespaces(&["mount"]);
    let error = none.create().err().unwrap().to_string();
    assert!(error.starts_with("hostname"), "{error}");
}
