//! Ends that nobody wished for.

use std::{collections::BTreeSet, path::PathBuf};

use bulkhead_tests::harness::{
    Namespace,
    oci::{Isolation, Oci, on},
    signal_process,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Pod, SANDBOX};

const WAITS: &str = "echo runs; while :; do sleep 1000 & wait; done";

fn the_end_of_the_sandbox_is_the_end_of_all(oci: &Oci) {
    let pod = Pod::start(oci, |_| {});
    let mut bundle = pod.bundle("one");
    bundle.sh(WAITS);
    oci.create_and_start("one", &bundle);
    oci.wait_for_output("one", "runs");
    let one = oci.pid("one");
    pod.end();
    assert_eq!(oci.exit_code(one), 137);
    assert_eq!(oci.status("one"), "stopped");
    oci.run(&["exec", "one", "true"]).assert_code(255);
    // Nothing can join any more.
    let refused = oci.create_with("two", &bundle, &[]);
    refused.assert_code(1);
    assert!(refused.error_text().contains(SANDBOX), "{refused}");
    oci.run(&["delete", "one"]).assert_code(0);
}

#[test]
fn vm_the_end_of_the_sandbox_is_the_end_of_all() {
    on(Isolation::Vm, the_end_of_the_sandbox_is_the_end_of_all);
}

#[test]
fn whoever_is_killed_leaves_nothing_that_delete_does_not_remove() {
    on(Isolation::Vm, |oci| {
        let pod = Pod::start(oci, |_| {});
        let mut bundle = pod.bundle("one");
        bundle.sh(WAITS);
        // What stands for a container is killed: that ends, and the pod does not.
        for _ in 0..2 {
            oci.create_and_start("one", &bundle);
            oci.wait_for_output("one", "runs");
            let one = oci.pid("one");
            signal_process(one, Signal::KILL);
            assert_eq!(oci.exit_code(one), 137);
            assert_eq!(oci.status("one"), "stopped");
            oci.run(&["delete", "one"]).assert_code(0);
        }
        assert_eq!(pod.exec(SANDBOX, "echo here"), "here");
        // The pod's monitor is killed: all end.
        oci.create_and_start("one", &bundle);
        oci.wait_for_output("one", "runs");
        let one = oci.pid("one");
        signal_process(pod.pid, Signal::KILL);
        assert_eq!(oci.exit_code(one), 137);
        assert_eq!(oci.exit_code(pod.pid), 137);
        for id in ["one", SANDBOX] {
            assert_eq!(oci.status(id), "stopped");
            oci.run(&["delete", id]).assert_code(0);
        }
        pod.unmount();
    });
}

/// A network of a pod's own, and its other end.
fn network(config: &mut Value, namespace: &Namespace) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|one| one["type"] != "network");
    namespaces.push(json!({ "type": "network", "path": namespace.path() }));
}

#[test]
fn a_killed_monitor_leaves_nothing_in_its_network_and_other_pods_alone() {
    on(Isolation::Vm, |oci| {
        let address = "ip address add 10.92.6.5/24 dev eth0; ip link set eth0 up";
        let [near, _far] = Namespace::pair(address);
        let [other_near, _other_far] = Namespace::pair(address);
        let other = Pod::named(oci, "other", |config| network(config, &other_near));
        let before = Held::of(oci, &near);
        let pod = Pod::start(oci, |config| network(config, &near));
        let mut bundle = pod.bundle("one");
        bundle.sh(WAITS);
        oci.create_and_start("one", &bundle);
        oci.wait_for_output("one", "runs");
        let one = oci.pid("one");
        for namespace in [&near, &other_near] {
            oci.wait("a program for the loopback", || namespace.socket_programs() == 1);
            let held = Held::of(oci, namespace);
            assert!(held.interfaces.contains("bulkhead eth0"), "{held:?}");
            assert!(held.disciplines.contains("ingress"), "{held:?}");
        }
        let of_other = Held::of(oci, &other_near);
        signal_process(pod.pid, Signal::KILL);
        assert_eq!((oci.exit_code(pod.pid), oci.exit_code(one)), (137, 137));
        // This much goes with the monitor, whoever is told of its end.
        oci.wait("the end of its processes and programs", || {
            let now = Held::of(oci, &near);
            now.processes.is_subset(&before.processes) && near.socket_programs() == 0
        });
        for id in ["one", SANDBOX] {
            oci.run(&["delete", id]).assert_code(0);
        }
        assert_eq!(Held::of(oci, &near), before);
        // The other one has noticed nothing.
        let now = Held::of(oci, &other_near);
        assert_eq!((now.interfaces, now.disciplines), (of_other.interfaces, of_other.disciplines));
        assert_eq!(other_near.socket_programs(), 1);
        assert_eq!(other.exec("other", "ip -o address show dev eth0 | grep -c 10.92.6.5"), "1");
        pod.unmount();
        other.end();
        assert_eq!(other_near.socket_programs(), 0);
    });
}

/// What there is of the test's on the host and in a network namespace.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    processes: BTreeSet<u32>,
    cgroups: BTreeSet<PathBuf>,
    interfaces: String,
    disciplines: String,
}

impl Held {
    fn of(oci: &Oci, namespace: &Namespace) -> Self {
        Self {
            processes: oci.processes().into_iter().collect(),
            cgroups: oci.cgroups().into_iter().collect(),
            interfaces: namespace.text("ip -details -o link show"),
            disciplines: namespace.text("tc qdisc show"),
        }
    }
}

#[test]
fn what_cannot_join_is_refused() {
    on(Isolation::Vm, |oci| {
        let pod = Pod::start(oci, |_| {});
        let mut bundle = pod.bundle("one");
        bundle.sh(WAITS);
        let refused = |id: &str, bundle: &bulkhead_tests::harness::oci::Bundle, word: &str| {
            let outcome = oci.create_with(id, bundle, &[]);
            outcome.assert_code(1);
            let error = outcome.error_text();
            assert!(error.contains(word) && error.lines().count() == 1, "{word}: {outcome}");
        };
        bundle.config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("nobody");
        refused("one", &bundle, "nobody");
        bundle.config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("../x");
        refused("one", &bundle, "sandbox-id");
        bundle.config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(SANDBOX);
        bundle.namespace("ipc", Some("/proc/1/ns/ipc"));
        refused("one", &bundle, "process 1 stands for no container of the pod");
        let mut bundle = pod.bundle("one");
        bundle.args(&["/no/such/program"]);
        let outcome = oci.run_bundle("one", &bundle);
        assert!(outcome.error_text().contains("/no/such/program"), "{outcome}");
        // A container that is no sandbox takes none.
        let mut alone = oci.bundle("alone");
        alone.sh(WAITS);
        oci.create_and_start("alone", &alone);
        let mut bundle = pod.bundle("one");
        bundle.config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("alone");
        refused("one", &bundle, "not the sandbox of a pod");
        oci.delete_force("alone");
        pod.end();
    });
}
