//! Ends that nobody wished for.

use bulkhead_tests::harness::{
    oci::{Isolation, Oci, on},
    signal_process,
};
use rustix::process::Signal;
use serde_json::json;

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
        assert!(std::process::Command::new("umount").arg(&pod.shm).status().unwrap().success());
    });
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
