//! `linux.resources` at creation and by `update`: what the container's cgroup has, v1 and v2 (runtime-spec, config-linux.md).

use std::fs;

use bulkhead_tests::harness::oci::Oci;
use serde_json::json;

isolations!(host: limits, updates, limits_bite, devices, cgroup_mounts; vm: limits, updates, limits_bite, devices, cgroup_mounts);

/// A setting of the container's cgroup: on the host with its v1 file, in a microVM's guest with its v2 file.
fn setting(oci: &Oci, id: &str, v1: &str, v2: &str) -> String {
    if oci.is_vm() {
        let outcome = oci.start(&["exec", id, "cat", &format!("/sys/fs/cgroup/{v2}")]).wait();
        outcome.assert_code(0);
        return outcome.text().trim().to_owned();
    }
    let (controller, _) = v1.split_once('.').unwrap();
    let cgroups = oci.cgroups();
    let cgroup = cgroups.iter().find(|path| {
        path.starts_with(format!("/sys/fs/cgroup/{controller}"))
            && path.to_str().unwrap().ends_with(id)
    });
    let cgroup = cgroup.unwrap_or_else(|| panic!("no cgroup of {controller}: {cgroups:?}"));
    fs::read_to_string(cgroup.join(v1))
        .unwrap_or_else(|error| panic!("{v1}: {error}"))
        .trim()
        .to_owned()
}

#[track_caller]
fn check(oci: &Oci, id: &str, v1: &str, v1_value: &str, v2: &str, v2_value: &str) {
    let seen = setting(oci, id, v1, v2);
    let words = seen.split_whitespace().collect::<Vec<_>>().join(" ");
    if oci.is_vm() {
        assert_eq!(words, v2_value, "{v2}");
    } else {
        assert_eq!(words, v1_value, "{v1}");
    }
}

/// Each controller's settings.
fn limits(oci: &Oci) {
    let mut bundle = oci.bundle("limits");
    bundle.sh("exec sleep 1000");
    bundle.config["linux"]["resources"] = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 50_003_968, "reservation": 40_001_536},
        "cpu": {"shares": 512, "quota": 30_000, "period": 60_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
    });
    oci.create_and_start("limits", &bundle);
    check(oci, "limits", "memory.limit_in_bytes", "50003968", "memory.max", "50003968");
    check(oci, "limits", "memory.soft_limit_in_bytes", "40001536", "memory.low", "40001536");
    // 1 + ((512 - 2) * 9999) / 262142, as every runtime translates shares.
    check(oci, "limits", "cpu.shares", "512", "cpu.weight", "20");
    if oci.is_vm() {
        check(oci, "limits", "", "", "cpu.max", "30000 60000");
    } else {
        check(oci, "limits", "cpu.cfs_quota_us", "30000", "", "");
        check(oci, "limits", "cpu.cfs_period_us", "60000", "", "");
    }
    if !oci.is_vm() {
        // A guest's processors are as many as are listed; which of the host's they run on is not the guest's to say.
        check(oci, "limits", "cpuset.cpus", "0", "", "");
    }
    check(oci, "limits", "pids.max", "33", "pids.max", "33");
    oci.delete_force("limits");
}

/// `update` by flags, by a file and by standard input; what is not given stays.
fn updates(oci: &Oci) {
    let mut bundle = oci.bundle("updates");
    bundle.sh("exec sleep 1000");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 60_002_304});
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
    oci.create_and_start("updates", &bundle);
    oci.run(&["update", "--memory", "70000640", "--cpu-share", "256", "updates"]).assert_code(0);
    check(oci, "updates", "memory.limit_in_bytes", "70000640", "memory.max", "70000640");
    check(oci, "updates", "cpu.shares", "256", "cpu.weight", "10");
    check(oci, "updates", "pids.max", "20", "pids.max", "20");
    oci.run(&[
        "update",
        "--cpu-quota",
        "20000",
        "--cpu-period",
        "50000",
        "--pids-limit",
        "40",
        "updates",
    ])
    .assert_code(0);
    check(oci, "updates", "pids.max", "40", "pids.max", "40");
    check(oci, "updates", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 50000");
    let file = oci.path("resources.json");
    fs::write(&file, json!({"memory": {"limit": 80_003_072}, "pids": {"limit": 50}}).to_string())
        .unwrap();
    oci.run(&["update", "--resources", file.to_str().unwrap(), "updates"]).assert_code(0);
    check(oci, "updates", "memory.limit_in_bytes", "80003072", "memory.max", "80003072");
    check(oci, "updates", "pids.max", "50", "pids.max", "50");
    check(oci, "updates", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 50000");
    let mut run = oci.start(&["update", "-r", "-", "updates"]);
    run.write(json!({"pids": {"limit": 60}}).to_string().as_bytes());
    run.close_stdin();
    run.wait().assert_code(0);
    check(oci, "updates", "pids.max", "60", "pids.max", "60");
    fs::write(&file, "{\"memory\": {\"limit\": \"much\"}}").unwrap();
    let outcome = oci.run(&["update", "--resources", file.to_str().unwrap(), "updates"]);
    assert_ne!(outcome.code(), 0, "{outcome}");
    assert_ne!(oci.run(&["update", "--memory", "much", "updates"]).code(), 0);
    check(oci, "updates", "memory.limit_in_bytes", "80003072", "memory.max", "80003072");
    oci.delete_force("updates");
}

/// The limits are kept: too many processes, too much memory.
fn limits_bite(oci: &Oci) {
    let mut bundle = oci.bundle("bite");
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 4});
    bundle.config["linux"]["resources"]["memory"] =
        json!({"limit": 33_554_432, "swap": 33_554_432});
    bundle.sh("(/probe hog 100 | tail -n 1; echo hog ended) 2>/dev/null
               sleep 100 & sleep 100 & sleep 100 & sleep 100 & sleep 100 & echo not reached");
    let outcome = oci.run_bundle("bite", &bundle);
    let text = outcome.text();
    assert!(
        text.contains("hog ended") && text.contains("took ") && !text.contains("took all"),
        "{outcome}"
    );
    assert!(!text.contains("not reached") && outcome.error_text().contains("fork"), "{outcome}");
}

/// The device list: what may be opened, what may be made.
fn devices(oci: &Oci) {
    let mut bundle = oci.bundle("devices");
    let caps = json!(["CAP_MKNOD"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    bundle.args(&[
        "/probe",
        "calls",
        "mknod:/tmp/null",
        "open:/tmp/null",
        "mknod-disk:/tmp/disk",
        "open:/tmp/disk",
        "open:/dev/null",
    ]);
    let outcome = oci.run_bundle("devices", &bundle);
    outcome.assert_code(0);
    let text = outcome.text();
    // Every runtime lets nodes be made, and /dev/null be used, whatever the list says.
    assert!(
        text.starts_with("mknod:/tmp/null 0\nopen:/tmp/null ")
            && !text.contains("open:/tmp/null E"),
        "{outcome}"
    );
    assert!(
        text.contains("open:/tmp/disk EPERM\n") && !text.contains("open:/dev/null E"),
        "{outcome}"
    );
}

/// A mount of kind `cgroup` shows the container's own groups, and its writes are refused when it is read-only.
fn cgroup_mounts(oci: &Oci) {
    let mut bundle = oci.bundle("cgroup-mounts");
    bundle.namespace("cgroup", None);
    let seen =
        oci.look("cgroup-mounts", &mut bundle, &["list=/sys/fs/cgroup", "path=/sys/fs/cgroup"]);
    let names = seen["wanted"]["list=/sys/fs/cgroup"].as_array().unwrap();
    let wanted: &[&str] =
        if oci.is_vm() { &["cgroup.procs", "memory.max"] } else { &["cpu", "memory", "pids"] };
    for name in wanted {
        assert!(names.iter().any(|seen| seen == name), "{name}: {names:?}");
    }
    assert_ne!(seen["wanted"]["path=/sys/fs/cgroup"]["write"], 0);
    for mount in seen["mounts"].as_array().unwrap() {
        if mount["type"].as_str().unwrap().starts_with("cgroup") {
            assert!(mount["options"].as_array().unwrap().contains(&json!("ro")), "{mount}");
        }
    }
}
