//! Pods: a sandbox container and others that join it, by their annotations and namespaces as containerd's CRI plugin writes them. The same specifications run
//! in both isolations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod crio;
mod deaths;
mod life;

use std::{fs, path::PathBuf, process::Command};

use bulkhead_tests::harness::oci::{Bundle, Oci};
use serde_json::{Value, json};

/// A pod: its sandbox runs.
struct Pod<'a> {
    oci: &'a Oci,
    /// The sandbox's id.
    id: &'static str,
    /// The sandbox's process on the host.
    pid: u32,
    /// What is `/dev/shm` of all its containers, a tmpfs of the host.
    shm: PathBuf,
}

const SANDBOX: &str = "pause";

impl<'a> Pod<'a> {
    /// Makes and starts the sandbox, which waits; `change` may change its configuration.
    fn start(oci: &'a Oci, change: impl FnOnce(&mut Value)) -> Self {
        Self::named(oci, SANDBOX, change)
    }

    /// The same with another sandbox's id.
    fn named(oci: &'a Oci, id: &'static str, change: impl FnOnce(&mut Value)) -> Self {
        let shm = oci.path(&format!("shm-{id}"));
        fs::create_dir_all(&shm).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "mode=1777,size=1m", "shm"])
            .arg(&shm)
            .status();
        assert!(mounted.unwrap().success());
        let mut bundle = oci.bundle(id);
        bundle.sh("trap 'exit 0' TERM; echo sandbox runs; while :; do sleep 1000 & wait; done");
        bundle.config["hostname"] = json!("the-pod");
        bundle.config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": id,
        });
        share_memory(&mut bundle, &shm);
        change(&mut bundle.config);
        oci.create_and_start(id, &bundle);
        Self { oci, id, pid: oci.pid(id), shm }
    }

    /// A container's bundle that joins the pod, as containerd writes it.
    fn bundle(&self, name: &str) -> Bundle {
        let mut bundle = self.oci.bundle(name);
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            let path = format!("/proc/{}/ns/{file}", self.pid);
            bundle.namespace(kind, Some(&path));
        }
        bundle.config.as_object_mut().unwrap().remove("hostname");
        bundle.config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": self.id,
            "io.kubernetes.cri.container-name": name,
        });
        share_memory(&mut bundle, &self.shm);
        bundle
    }

    /// Runs a command in a container; what it wrote.
    #[track_caller]
    fn exec(&self, id: &str, script: &str) -> String {
        let outcome = self.oci.run(&["exec", id, "sh", "-c", script]);
        outcome.assert_code(0).text().trim().to_owned()
    }

    /// Stops the sandbox and removes it.
    #[track_caller]
    fn end(self) {
        self.oci.run(&["kill", self.id, "KILL"]).assert_code(0);
        assert_eq!(self.oci.exit_code(self.pid), 137);
        self.oci.run(&["delete", self.id]).assert_code(0);
        self.unmount();
    }

    /// Lets go of its memory.
    #[track_caller]
    fn unmount(&self) {
        assert!(Command::new("umount").arg(&self.shm).status().unwrap().success());
    }
}

fn share_memory(bundle: &mut Bundle, shm: &std::path::Path) {
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    for mount in mounts {
        if mount["destination"] == "/dev/shm" {
            *mount = json!({"destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind", "rw"]});
        }
    }
}
