//! `bench isolation`: what must be so whatever the host is.

use std::{collections::BTreeSet, fs};

use bulkhead_tests::harness::{Host, kvm_missing};
use rustix::process::Signal;
use serde_json::Value;

use super::{host, read, samples};

/// The rows of a group.
fn rows<'a>(report: &'a Value, key: &str) -> &'a Vec<Value> {
    let groups = report["groups"].as_array().expect("groups");
    let group = groups.iter().find(|group| group["key"] == key);
    group.and_then(|group| group["findings"].as_array()).unwrap_or_else(|| panic!("no {key}"))
}

/// What a subject showed in a row of a group, and whether it is bad news.
fn cell<'a>(report: &'a Value, key: &str, row: &str, subject: &str) -> (&'a str, bool) {
    let rows = rows(report, key);
    let row = rows.iter().find(|found| found["key"] == row).unwrap_or_else(|| panic!("no {row}"));
    let text = row["values"][subject].as_str().unwrap_or_else(|| panic!("{subject} in {row}"));
    let bad = row["bad"].as_array().expect("a list").iter().any(|bad| bad == subject);
    (text, bad)
}

fn sample(report: &Value, key: &str, measure: &str, subject: &str) -> f64 {
    samples(report, key, measure, subject)[0]
}

fn own_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

fn assert_default_host(report: &Value) {
    let reach = |attempt: &str| cell(report, "attempts", attempt, "host");
    let (kernel, marked) = cell(report, "seen", "kernel", "host");
    assert_eq!((kernel, marked), (format!("{} (the host's)", own_release()).as_str(), true));
    // What the default filter refuses, and what the default capabilities do not have.
    let filtered = [
        "host-file-handle",
        "host-key",
        "kexec",
        "init-module",
        "finit-module",
        "delete-module",
        "reboot",
        "set-clock",
        "io-ports",
        "mount",
        "unshare-user",
        "bpf",
        "perf",
        "io-uring",
        "userfaultfd",
        "keyctl",
    ];
    for attempt in filtered {
        assert_eq!(reach(attempt), ("refused (EPERM)", false), "{attempt}");
    }
    assert_eq!(reach("vsock"), ("not there (EAFNOSUPPORT)", false));
    // Devices that are not on its list; nothing that must not be written can be.
    for attempt in ["kvm", "dev-mem"] {
        assert_eq!(reach(attempt), ("refused (EPERM)", false), "{attempt}");
    }
    assert!(reach("core-pattern").0.starts_with("refused"), "{:?}", reach("core-pattern"));
    // What is docker's default, too: within its own namespaces.
    assert_eq!(reach("raw-socket"), ("own", false));
    for canary in ["host-file", "host-socket", "host-process"] {
        assert!(reach(canary).0.starts_with("not there"), "{canary}: {:?}", reach(canary));
    }
    assert_eq!(sample(report, "summary", "host", "host"), 0.0);
    assert!(cell(report, "seen", "processes", "host").0.ends_with("no canary"));
    assert!(sample(report, "calls", "distinct", "host") > 10.0);
}

#[test]
fn a_microvm_shows_nothing_of_the_host_and_a_plain_container_its_kernel() {
    if kvm_missing() {
        return;
    }
    let Some(host) = host() else { return };
    let (json, html) = (host.path("report.json"), host.path("report.html"));
    let outcome = host
        .boot(&[
            "bench",
            "isolation",
            "--profile",
            "default",
            "--json",
            json.to_str().unwrap(),
            "--html",
            html.to_str().unwrap(),
            "--timeout",
            "500",
            "busybox",
        ])
        .wait();
    outcome.assert_code(0);
    assert!(outcome.text().contains("What it can reach"), "{outcome}");
    assert!(fs::read_to_string(html).unwrap().contains("</html>"));
    let report = read(&json);
    assert_default_host(&report);

    // Another kernel, and nothing that the bench has put on this host.
    let (kernel, marked) = cell(&report, "seen", "kernel", "vm");
    assert!(kernel.ends_with(" (its own)") && !marked, "{kernel}");
    assert!(!kernel.starts_with(&format!("{} ", own_release())), "{kernel}");
    assert_eq!(cell(&report, "seen", "namespaces", "vm"), ("none", false));
    assert!(!cell(&report, "seen", "clocks", "vm").1);
    assert!(cell(&report, "seen", "processes", "vm").0.ends_with("no canary"));
    assert!(cell(&report, "seen", "keys", "vm").0.ends_with("no canary"));
    assert!(!cell(&report, "seen", "mounts", "vm").0.contains("host paths"));
    for key in ["seen", "attempts"] {
        for row in rows(&report, key) {
            let bad = row["bad"].as_array().unwrap();
            assert!(bad.iter().all(|subject| subject != "vm"), "{row}");
        }
    }
    assert_eq!(sample(&report, "summary", "host", "vm"), 0.0);
    // The host is asked by those who serve the guest.
    assert!(sample(&report, "calls", "ioctls", "vm") >= 1.0);
    host.assert_nothing_left();
}

#[test]
fn privileges_on_the_hosts_kernel_reach_the_host() {
    let Some(host) = host() else { return };
    let json = host.path("report.json");
    let path = json.to_str().unwrap();
    host.run(&["bench", "isolation", "--isolation", "host", "--json", path, "busybox"])
        .assert_code(0);
    let report = read(&json);
    assert_default_host(&report);
    let reached = sample(&report, "summary", "host", "host-privileged");
    assert!(reached >= 1.0, "{report}");
    let bad: BTreeSet<&str> = rows(&report, "attempts")
        .iter()
        .filter(|row| row["bad"].as_array().unwrap().iter().any(|key| key == "host-privileged"))
        .filter_map(|row| row["key"].as_str())
        .collect();
    // The file system of one of its mounts holds the host's file, and nothing tells kernels apart.
    assert!(bad.contains("host-file-handle"), "{bad:?}");
    assert!(bad.contains("set-clock") && bad.contains("core-pattern"), "{bad:?}");
    host.assert_nothing_left();
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    let Some(host) = host() else { return };
    // A runtime that never comes back.
    let peer = hanging_runtime(&host);
    let mut bench = host.boot_command(host.command(&[
        "bench",
        "isolation",
        "--isolation",
        "host",
        "--profile",
        "default",
        "--peer",
        &peer,
        "busybox",
    ]));
    bench.wait_for("hangs");
    bench.signal(Signal::INT);
    let outcome = bench.wait();
    assert_eq!(outcome.code(), 130, "{outcome}");
    host.assert_nothing_left();
}

/// A peer that says so and hangs, as `NAME=PATH`.
fn hanging_runtime(host: &Host) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = host.path("hanging");
    fs::write(
        &path,
        "#!/bin/sh\n[ \"$1\" = --version ] || { echo hangs >/proc/$PPID/fd/1; exec sleep 1000; }\n",
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("hanging={}", path.display())
}
