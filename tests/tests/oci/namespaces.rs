//! `linux.namespaces`, user namespaces with their maps, time namespaces (runtime-spec, config-linux.md).

use std::{fs, path::Path};

use bulkhead_tests::harness::oci::Oci;
use serde_json::json;

isolations!(host: new_ones, joined_ones, the_hosts_own, user_namespaces, time_namespaces; vm: new_ones, joined_ones, the_hosts_own, user_namespaces, time_namespaces);

const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

/// Every namespace that is asked for is a new one; the process of the host shows the same ones.
fn new_ones(oci: &Oci) {
    let mut bundle = oci.bundle("new");
    bundle.namespace("cgroup", None);
    let seen = oci.look("new", &mut bundle, &["list=/sys/class/net", "list=/proc"]);
    for (_, kind) in KINDS {
        let there = seen["namespaces"][kind].as_str().unwrap();
        if !oci.is_vm() {
            assert_ne!(there, own(kind), "{kind}");
        }
    }
    if !oci.is_vm() {
        assert_eq!(seen["namespaces"]["user"], own("user"), "no user namespace is asked for");
    }
    for line in seen["cgroup"].as_str().unwrap().lines() {
        assert!(
            line.ends_with(":/"),
            "the container's own cgroup is the root of its namespace: {line}"
        );
    }
    let devices = seen["wanted"]["list=/sys/class/net"].as_array().unwrap();
    assert!(devices.contains(&json!("lo")), "{devices:?}");
    assert!(
        !devices.iter().any(|name| name.as_str().is_some_and(|name| name.starts_with("eth"))),
        "{devices:?}"
    );
    let processes = seen["wanted"]["list=/proc"].as_array().unwrap();
    let processes: Vec<_> =
        processes.iter().filter(|name| name.as_str().unwrap().parse::<u32>().is_ok()).collect();
    assert_eq!(processes, [&json!("1")]);
}

/// A second container joins the namespaces of a first one by path, as a pod's containers do.
fn joined_ones(oci: &Oci) {
    if oci.is_vm() {
        return joined_network_in_a_microvm(oci);
    }
    let mut first = oci.bundle("first");
    first.sh("exec sleep 1000");
    oci.create_and_start("first", &first);
    let pid = oci.pid("first");
    let mut second = oci.bundle("second");
    for (kind, file) in KINDS.iter().filter(|(kind, _)| !["mount", "cgroup"].contains(kind)) {
        second.namespace(kind, Some(&format!("/proc/{pid}/ns/{file}")));
    }
    second.config.as_object_mut().unwrap().remove("hostname");
    let seen = oci.look("second", &mut second, &[]);
    for kind in ["pid", "net", "ipc", "uts"] {
        let wanted = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
        assert_eq!(seen["namespaces"][kind], wanted, "{kind}");
    }
    assert_ne!(seen["pid"], 1);
    assert_eq!(seen["names"]["host"], "a-container", "the name is the first's");
    // A path that is of another kind, or of none.
    for path in ["/proc/self/ns/mnt", "/etc/passwd", "/no/such/namespace"] {
        let mut wrong = oci.bundle(&format!("wrong{}", path.len()));
        wrong.namespace("network", Some(path));
        let outcome = oci.create_with("wrong", &wrong, &[]);
        assert_ne!(outcome.code(), 0, "{path}");
        assert_ne!(oci.run(&["state", "wrong"]).code(), 0);
    }
    oci.delete_force("first");
}

/// The monitor of a microVM is in the network namespace that the caller made; a path that is none is refused.
fn joined_network_in_a_microvm(oci: &Oci) {
    let mut bundle = oci.bundle("network");
    bundle.namespace("network", Some("/no/such/namespace"));
    let outcome = oci.create_with("network", &bundle, &[]);
    assert_ne!(outcome.code(), 0, "{outcome}");
    assert!(outcome.error_text().contains("/no/such/namespace"), "{outcome}");
}

/// Without a namespace in the list the container is in the caller's (in a microVM: in the guest's own).
fn the_hosts_own(oci: &Oci) {
    let mut bundle = oci.bundle("shared");
    for kind in ["network", "ipc", "uts"] {
        bundle.without_namespace(kind);
    }
    bundle.config.as_object_mut().unwrap().remove("hostname");
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != "/dev/mqueue");
    let seen = oci.look("shared", &mut bundle, &[]);
    if !oci.is_vm() {
        for kind in ["net", "ipc", "uts"] {
            assert_eq!(seen["namespaces"][kind], own(kind), "{kind}");
        }
    }
    assert_eq!(seen["pid"], 1);
}

/// Id maps: who one is inside and outside, who owns files, and that mounts of the container are its own.
fn user_namespaces(oci: &Oci) {
    let mut bundle = oci.bundle("users");
    bundle.namespace("user", None);
    bundle.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}, {"containerID": 1000, "hostID": 5000, "size": 1}]);
    bundle.config["linux"]["gidMappings"] =
        json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
    let output = bundle.rootfs().join("output");
    fs::create_dir(&output).unwrap();
    std::os::unix::fs::chown(&output, Some(100_000), Some(200_000)).unwrap();
    // Whoever is not root must be able to reach the root file system.
    for path in [oci.path(""), bundle.path.clone(), bundle.rootfs()] {
        set_mode(&path, 0o755);
    }
    // The others leave it to engines to give pipes to whoever is root inside.
    let opens = if oci.is_bulkhead() { ": > /dev/stdout; " } else { "" };
    bundle.sh(&format!(
        "touch /output/file; {opens}/probe look path=/output/file path=/dev/null path=/etc/passwd"
    ));
    let outcome = oci.run_bundle("users", &bundle);
    outcome.assert_code(0);
    let seen: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let words = |key: &str| {
        let text = seen[key].as_str().unwrap();
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(words("uid_map"), ["0 100000 1000", "1000 5000 1"]);
    assert_eq!(words("gid_map"), ["0 200000 65536"]);
    assert_eq!(seen["status"]["Uid"], "0 0 0 0");
    let files = &seen["wanted"];
    assert_eq!(files["path=/output/file"]["owner"], "0:0");
    assert_eq!(
        files["path=/etc/passwd"]["owner"], "65534:65534",
        "root of the host is nobody here"
    );
    assert_eq!(files["path=/dev/null"]["write"], 0);
    if !oci.is_vm() {
        use std::os::unix::fs::MetadataExt;
        let made = fs::metadata(output.join("file")).unwrap();
        assert_eq!((made.uid(), made.gid()), (100_000, 200_000));
        assert_ne!(seen["namespaces"]["user"], own("user"));
    }
}

/// `linux.timeOffsets` (runtime-spec 1.1; runc 1.1 has none).
fn time_namespaces(oci: &Oci) {
    if !oci.is_bulkhead() || !oci.is_vm() && !Path::new("/proc/self/ns/time").exists() {
        return;
    }
    let mut bundle = oci.bundle("time");
    bundle.namespace("time", None);
    bundle.config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 864_000, "nanosecs": 0}});
    bundle.args(&["/probe", "look", "read=/proc/uptime"]);
    let outcome = oci.run_bundle("time", &bundle);
    outcome.assert_code(0);
    let seen: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let uptime: f64 = seen["wanted"]["read=/proc/uptime"]
        .as_str()
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(uptime > 864_000.0, "{uptime}");
    let offsets = seen["timens_offsets"].as_str().unwrap();
    let lines: Vec<_> =
        offsets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["monotonic 1000 5", "boottime 864000 0"]);
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
