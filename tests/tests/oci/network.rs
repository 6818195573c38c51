//! An interface in the network namespace that a container is to join: it is the container's, and whatever is killed, the namespace is as it was.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
};

use bulkhead_tests::harness::{oci::Oci, signal_process};
use rustix::process::Signal;

isolations!(host: an_interface; vm: an_interface);

/// A network namespace; a process keeps it.
struct Namespace(Child);

impl Namespace {
    fn new(script: &str) -> Self {
        let script = format!("ip link set lo up; {script}; echo ready; exec cat");
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        keeper.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        Self(keeper)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn run(&self, line: &str) -> String {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.path()))
            .args(line.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn an_interface(oci: &Oci) {
    let far = Namespace::new("true");
    let namespace = Namespace::new(&format!(
        "ip link add eth0 type veth peer name far0 netns {}; \
         ip address add 10.92.7.5/24 dev eth0; ip link set eth0 up",
        far.0.id()
    ));
    far.run("ip link set far0 up");
    let path = namespace.path();
    for end in ["killed", "ended"] {
        let mut bundle = oci.bundle(end);
        bundle.namespace("network", Some(&path));
        bundle.sh("ip -o address; ip -o link; echo that is all; exec sleep 100000");
        oci.create_and_start(end, &bundle);
        oci.wait_for_output(end, "that is all");
        let seen = oci.output(end);
        assert!(seen.contains("inet 10.92.7.5/24"), "{seen}");
        let links = namespace.run("ip -details link show");
        let tap = format!("bulkhead eth0 {end}");
        assert_eq!(links.contains(&tap), oci.is_vm(), "{links}");
        let signal = if end == "killed" { Signal::KILL } else { Signal::TERM };
        signal_process(oci.pid(end), signal);
        oci.delete_force(end);
        let links = namespace.run("ip -details link show");
        assert!(!links.contains("bulkhead") && links.contains("eth0"), "{links}");
        let disciplines = namespace.run("tc qdisc show");
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
