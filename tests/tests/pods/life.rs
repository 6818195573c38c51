//! Containers that join, live with each other, end, and come again.

use std::fs;

use bulkhead_tests::harness::oci::{Isolation, Oci, on};
use serde_json::json;

use super::Pod;

/// Namespaces as the container's own processes see them.
fn namespaces(pod: &Pod<'_>, id: &str) -> Vec<String> {
    let script = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done";
    pod.exec(id, script).lines().map(str::to_owned).collect()
}

fn containers_share_what_a_pod_shares(oci: &Oci) {
    let pod = Pod::start(oci, |_| {});
    let waits = "trap 'exit 5' TERM; echo $0 runs; while :; do sleep 1000 & wait; done";
    for name in ["one", "two"] {
        let mut bundle = pod.bundle(name);
        bundle.args(&["sh", "-c", waits, name]);
        bundle.config["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20 });
        fs::write(bundle.rootfs().join("etc/name"), name).unwrap();
        let note = oci.path(&format!("{name}.note"));
        fs::write(&note, format!("for {name}")).unwrap();
        bundle.mount("bind", &note, "/etc/note", &["rbind", "ro"]);
        oci.create(name, &bundle);
        assert_eq!(oci.status(name), "created");
        oci.run(&["start", name]).assert_code(0);
        oci.wait_for_output(name, &format!("{name} runs"));
        assert_eq!(oci.status(name), "running");
    }
    // Each has a root and files of its own.
    assert_eq!(pod.exec("one", "cat /etc/name /etc/note"), "onefor one");
    assert_eq!(pod.exec("two", "cat /etc/name /etc/note"), "twofor two");
    oci.run(&["exec", "two", "sh", "-c", "echo x > /etc/note"]).assert_code(1);
    // Network, IPC and UTS are one; the others are not.
    let of = ["pause", "one", "two"].map(|id| namespaces(&pod, id));
    for shared in 0..3 {
        assert!(of[0][shared] == of[1][shared] && of[1][shared] == of[2][shared], "{of:?}");
    }
    for own in 3..5 {
        assert!(of[0][own] != of[1][own] && of[1][own] != of[2][own], "{of:?}");
    }
    assert_eq!(pod.exec("one", "hostname"), "the-pod");
    assert_eq!(pod.exec("two", "hostname"), "the-pod");
    // A socket on the loopback interface, and memory.
    pod.exec("one", "echo through | nc -l -p 7777 > /dev/null 2>&1 & sleep 0");
    let heard = "for i in $(seq 500); do nc 127.0.0.1 7777 < /dev/null && break; sleep 0.1; done";
    assert_eq!(pod.exec("two", heard), "through");
    pod.exec("two", "echo in memory > /dev/shm/word");
    assert_eq!(pod.exec("one", "cat /dev/shm/word"), "in memory");
    // Limits are each container's.
    let limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
    assert_eq!(pod.exec("one", limit), "33554432");
    oci.run(&["update", "--memory", "16777216", "one"]).assert_code(0);
    assert_eq!(pod.exec("one", limit), "16777216");
    assert_eq!(pod.exec("two", limit), "33554432");
    let table = oci.run(&["ps", "one"]);
    assert!(table.text().contains("sh") && !table.text().contains("sandbox runs"), "{table}");
    let stats = oci.run(&["events", "--stats", "two"]);
    assert!(stats.assert_code(0).text().contains("\"limit\":33554432"), "{stats}");
    // One is frozen and the other goes on.
    oci.run(&["pause", "one"]).assert_code(0);
    assert_eq!(oci.status("one"), "paused");
    assert_eq!(pod.exec("two", "echo awake"), "awake");
    oci.run(&["resume", "one"]).assert_code(0);
    assert_eq!(oci.status("one"), "running");
    // Their ends are theirs.
    let pids = ["one", "two"].map(|id| oci.pid(id));
    oci.run(&["kill", "one", "TERM"]).assert_code(0);
    assert_eq!(oci.exit_code(pids[0]), 5);
    assert_eq!(oci.status("one"), "stopped");
    assert_eq!(pod.exec("two", "echo still here"), "still here");
    oci.run(&["delete", "one"]).assert_code(0);
    oci.run(&["delete", "--force", "two"]).assert_code(0);
    assert_eq!(oci.exit_code(pids[1]), 137);
    pod.end();
}

#[test]
fn vm_containers_share_what_a_pod_shares() {
    on(Isolation::Vm, containers_share_what_a_pod_shares);
}

#[test]
fn host_containers_share_what_a_pod_shares() {
    on(Isolation::Host, containers_share_what_a_pod_shares);
}

fn one_is_started_again_and_again(oci: &Oci) {
    let pod = Pod::start(oci, |_| {});
    for round in 1..=5 {
        let mut bundle = pod.bundle("again");
        bundle.sh("cat >> /root/rounds; wc -l < /root/rounds; exit 7");
        bundle.write();
        let path = bundle.path.display().to_string();
        let mut run = oci.start(&["run", "--bundle", &path, "again"]);
        run.write(b"a line\n");
        run.close_stdin();
        let outcome = run.wait();
        assert_eq!(outcome.assert_code(7).text().trim(), round.to_string(), "{outcome}");
    }
    pod.end();
}

#[test]
fn vm_one_is_started_again_and_again() {
    on(Isolation::Vm, one_is_started_again_and_again);
}

#[test]
fn host_one_is_started_again_and_again() {
    on(Isolation::Host, one_is_started_again_and_again);
}

fn processes_are_shared_if_that_is_asked_for(oci: &Oci) {
    let pod = Pod::start(oci, |_| {});
    let mut bundle = pod.bundle("debug");
    bundle.namespace("pid", Some(&format!("/proc/{}/ns/pid", pod.pid)));
    bundle.sh("echo as $$; grep -c . /proc/1/status; exit 0");
    let outcome = oci.run_bundle("debug", &bundle);
    let text = outcome.assert_code(0).text();
    assert!(!text.contains("as 1\n"), "{outcome}");
    pod.end();
}

#[test]
fn vm_processes_are_shared_if_that_is_asked_for() {
    on(Isolation::Vm, processes_are_shared_if_that_is_asked_for);
}

#[test]
fn host_processes_are_shared_if_that_is_asked_for() {
    on(Isolation::Host, processes_are_shared_if_that_is_asked_for);
}
