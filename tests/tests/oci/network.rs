//! An interface in the network namespace that a container is to join: it is the container's, and whatever is killed, the namespace is as it was.

use std::path::Path;

use bulkhead_tests::harness::{Namespace, oci::Oci, signal_process};
use rustix::process::Signal;

isolations!(host: an_interface, one_that_comes_late; vm: an_interface, one_that_comes_late);

fn an_interface(oci: &Oci) {
    let [namespace, _far] =
        Namespace::pair("ip address add 10.92.7.5/24 dev eth0; ip link set eth0 up");
    let path = namespace.path();
    for end in ["killed", "ended"] {
        let mut bundle = oci.bundle(end);
        bundle.namespace("network", Some(&path));
        bundle.sh("ip -o address; ip -o link; echo that is all; exec sleep 100000");
        oci.create_and_start(end, &bundle);
        oci.wait_for_output(end, "that is all");
        let seen = oci.output(end);
        assert!(seen.contains("inet 10.92.7.5/24"), "{seen}");
        let links = namespace.text("ip -details link show");
        let tap = format!("bulkhead eth0 {end}");
        assert_eq!(links.contains(&tap), oci.is_vm(), "{links}");
        let signal = if end == "killed" { Signal::KILL } else { Signal::TERM };
        signal_process(oci.pid(end), signal);
        oci.delete_force(end);
        let links = namespace.text("ip -details link show");
        assert!(!links.contains("bulkhead") && links.contains("eth0"), "{links}");
        let disciplines = namespace.text("tc qdisc show");
        assert!(!disciplines.contains("ingress"), "{disciplines}");
    }
    drop(namespace);
    assert!(!Path::new(&path).exists());
    let mut bundle = oci.bundle("late");
    bundle.namespace("network", Some(&path));
    bundle.write();
    let refused = oci.run(&["create", "--bundle", bundle.path.to_str().unwrap(), "late"]);
    assert_ne!(refused.code(), 0);
    assert!(refused.error_text().contains(&path), "{refused}");
    oci.assert_nothing_left();
}

/// Some engines set up the network of a container that was created. A microVM has its network cards by then, and is not started without them.
fn one_that_comes_late(oci: &Oci) {
    let mut bundle = oci.bundle("late");
    bundle.sh("ip -o address; echo that is all; exec sleep 100000");
    oci.create("late", &bundle);
    let script = "ip link add eth7 type veth peer name far; ip address add 10.92.9.5/24 dev eth7; ip link set eth7 up";
    let namespace = format!("--net=/proc/{}/ns/net", oci.pid("late"));
    run("nsenter", &[&namespace, "sh", "-ec", script]);
    let started = oci.run(&["start", "late"]);
    if oci.is_vm() {
        assert_ne!(started.code(), 0);
        let told = started.error_text();
        assert!(told.contains("far has come after the container was created"), "{told}");
        assert_eq!(oci.status("late"), "created");
        run("nsenter", &[&namespace, "ip", "link", "delete", "eth7"]);
        oci.run(&["start", "late"]).assert_code(0);
        oci.wait_for_output("late", "that is all");
    } else {
        started.assert_code(0);
        oci.wait_for_output("late", "that is all");
        let seen = oci.output("late");
        assert!(seen.contains("inet 10.92.9.5/24"), "{seen}");
    }
    oci.delete_force("late");
    oci.assert_nothing_left();
}

fn run(program: &str, words: &[&str]) {
    let status = std::process::Command::new(program).args(words).status().unwrap();
    assert!(status.success(), "{program} {words:?}: {status}");
}
