//! What engines write by default runs in clones with all that their template has made ahead.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_tests::harness::oci::{Bundle, Isolation, Oci, capability_bits, on};
use serde_json::{Value, json};

/// Their specifications as they were, without the filter of system calls and with names in the place of files to bind; with how many of
/// their mounts are of the guest's kernel, and how many of these show control groups.
const ENGINES: [(&str, &str, usize, usize); 3] = [
    ("podman", include_str!("engines/podman.json"), 7, 1),
    ("containerd", include_str!("engines/ctr.json"), 7, 0),
    ("pause", include_str!("engines/pause.json"), 6, 0),
];

/// A tmpfs of the host's, which is there as long as this.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(on: PathBuf) -> Self {
        fs::create_dir(&on).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=65536k", "shm"])
            .arg(&on)
            .status()
            .unwrap();
        assert!(status.success());
        Self(on)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        assert!(std::thread::panicking() || status.is_ok_and(|status| status.success()));
    }
}

/// The configuration with files of this test's in the place of the engine's.
fn with_files(config: &mut Value, shm: &Path, directory: &Path) {
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "bind" {
            let name = mount["source"].as_str().unwrap().to_owned();
            let source = if name == "shm" { shm.to_owned() } else { directory.join(&name) };
            if !source.exists() {
                fs::write(&source, format!("{name}\n")).unwrap();
            }
            mount["source"] = json!(source);
        }
    }
}

fn has_cgroup_namespace(config: &Value) -> bool {
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    namespaces.iter().any(|namespace| namespace["type"] == "cgroup")
}

/// Runs the container in a clone and compares what it sees with what it was to have.
fn check(oci: &Oci, id: &str, bundle: &mut Bundle, ahead: usize) {
    let seen = "cut -d' ' -f5 /proc/self/mountinfo | sort; echo ==; grep CapBnd /proc/self/status; cat /proc/self/cgroup; \
        hostname; for file in /proc/sys/kernel/hostname /proc/bus/x; do echo x > $file; done 2>&1 | wc -l; \
        cat /proc/timer_list | wc -c; echo /proc/[0-9]*; echo ready; read word; exit 7";
    bundle.sh(seen);
    bundle.write();
    let path = bundle.path.display().to_string();
    let mut run = oci.start(&["run", "--template", "require", "--bundle", &path, id]);
    run.wait_for("ready");
    let text = fs::read(oci.root().join(id).join("timeline.json")).unwrap();
    let timeline: Value = serde_json::from_slice(&text).unwrap();
    println!("{id}: {timeline}");
    let config = &bundle.config;
    assert_eq!(timeline["template"]["ahead"], ahead, "{id}: {timeline}");
    run.write(b"word\n");
    let outcome = run.wait();
    let text = outcome.assert_code(7).text();
    let (mounts, rest) = text.split_once("==\n").unwrap();
    let mounts: Vec<_> = mounts.lines().collect();
    for mount in config["mounts"].as_array().unwrap() {
        let on = mount["destination"].as_str().unwrap();
        assert!(mounts.contains(&on), "{id}: {on}: {text}");
    }
    assert!(mounts.contains(&"/proc/sys"), "{id}: {text}");
    let names = config["process"]["capabilities"]["bounding"].as_array().unwrap();
    let names: Vec<_> = names.iter().map(|name| name.as_str().unwrap()).collect();
    let group =
        if has_cgroup_namespace(config) { "/".to_owned() } else { format!("/bulkhead-{id}") };
    let lines: Vec<_> = rest.lines().collect();
    let hostname = config["hostname"].as_str().unwrap_or(lines[2]);
    let expected = [
        &format!("CapBnd:\t{}", capability_bits(&names)),
        &format!("0::{group}"),
        hostname,
        "2",
        "0",
        "/proc/1",
    ];
    assert_eq!(lines[..6], expected, "{id}: {text}");
}

#[test]
fn what_engines_write_is_made_ahead() {
    on(Isolation::Vm, |oci| {
        let shm = Tmpfs::new(oci.path("shm"));
        for (name, config, mounts, groups) in ENGINES {
            for namespace in [true, false] {
                let id = format!("{name}-{namespace}");
                let mut bundle = oci.bundle(&id);
                let cgroup = bundle.config["linux"]["cgroupsPath"].clone();
                bundle.config = serde_json::from_str(config).unwrap();
                bundle.config["linux"]["cgroupsPath"] = cgroup;
                if bundle.config["annotations"].is_object() {
                    bundle.config["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(id);
                }
                with_files(&mut bundle.config, &shm.0, &oci.path(""));
                bundle.without_namespace("cgroup");
                if namespace {
                    bundle.namespace("cgroup", None);
                }
                check(oci, &id, &mut bundle, if namespace { mounts } else { mounts - groups });
            }
        }
        // The tests' own is runc's.
        let mut bundle = oci.bundle("runc");
        check(oci, "runc", &mut bundle, 6);
    });
}

#[test]
fn a_container_that_nobody_expected_is_made_when_it_is_asked_for() {
    on(Isolation::Vm, |oci| {
        let mut bundle = oci.bundle("other");
        bundle.without_namespace("ipc");
        bundle.sh("echo begun; read word; exit 7");
        bundle.write();
        let path = bundle.path.display().to_string();
        let mut run = oci.start(&["run", "--template", "require", "--bundle", &path, "other"]);
        run.wait_for("begun");
        let text = fs::read(oci.root().join("other/timeline.json")).unwrap();
        let timeline: Value = serde_json::from_slice(&text).unwrap();
        assert!(timeline["template"]["ahead"].is_null(), "{timeline}");
        assert!(timeline["template"]["nonce"].is_string(), "{timeline}");
        run.write(b"word\n");
        run.wait().assert_code(7);
    });
}
