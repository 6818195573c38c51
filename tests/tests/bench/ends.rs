//! Benches that fail, that are interrupted, that are killed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::harness::Host;
use rustix::process::Signal;

use super::host;

const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime that makes a process of the host which says this, and nothing else of what a runtime should do.
fn liar(host: &Host, says: &str) -> PathBuf {
    let path = host.path("liar");
    let script = format!(
        "#!/bin/sh\n[ \"$3\" = create ] || exit 0\n(echo '{says}'; exec sleep 0.01) &\nprintf $! > \"$7\"\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_start_that_cannot_prove_itself_is_an_error() {
    let Some(host) = host() else { return };
    let json = host.path("a.json");
    for (says, why) in [
        ("hello", "did not say when it began"),
        ("bulkhead-stamp 1 1", "before the request"),
        ("bulkhead-stamp 18446744073709551615 1", "after the program"),
    ] {
        let peer = format!("liar={}", liar(&host, says).display());
        let mut words = vec!["bench", "startup", "-n", "1", "--mode", "host", "--peer", &peer];
        words.extend(["--json", json.to_str().unwrap(), "busybox"]);
        host.run(&words).assert_refused(1, &["liar: the run is not valid", why]);
        assert!(!json.exists());
        host.assert_nothing_left();
    }
}

#[test]
fn what_cannot_be_measured_is_said_in_one_line() {
    let Some(host) = host() else { return };
    let run = |words: &[&str]| host.run(&[&["bench", "startup", "--mode", "host"], words].concat());
    run(&["none"]).assert_refused(1, &["none"]);
    run(&["busybox", "no-such-program"]).assert_refused(1, &["its program ended with 127"]);
    run(&["busybox", "sh", "-c", "exit 3"]).assert_refused(1, &["its program ended with 3"]);
    let slow = ["--timeout", "1", "busybox", "sleep", "1000"];
    run(&slow).assert_refused(1, &["the program took more than 1 s", "--timeout"]);
    let other = host.path("other.json");
    fs::write(&other, "{}").unwrap();
    host.run(&["bench", "show", other.to_str().unwrap()]).assert_refused(1, &["no schema"]);
    let peer = host.run(&["bench", "startup", "--peer", "x=/no/such", "busybox"]);
    assert!(peer.error_text().contains("/no/such"), "{peer}");
    peer.assert_code(125);
    host.assert_nothing_left();
}

/// Waits until a bench has a running container.
fn wait_for_container(host: &Host) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let works = fs::read_dir(host.data()).unwrap().map(|entry| entry.unwrap().path());
        let mut outputs = works.map(|work| work.join("0/output"));
        if outputs.any(|output| fs::metadata(output).is_ok_and(|file| file.len() > 0)) {
            return;
        }
        assert!(Instant::now() < deadline, "there is no container");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_interrupted_bench_removes_what_it_started() {
    let Some(host) = host() else { return };
    let words = ["bench", "startup", "--mode", "host", "busybox", "sleep", "1000"];
    for signal in [Signal::INT, Signal::TERM] {
        let bench = host.boot(&words);
        wait_for_container(&host);
        bench.signal(signal);
        let outcome = bench.wait();
        outcome.assert_refused(128 + signal.as_raw(), &["interrupted"]);
        host.assert_nothing_left();
    }
}

#[test]
fn a_killed_benchs_containers_go_with_the_next() {
    let Some(host) = host() else { return };
    let bench = host.boot(&["bench", "startup", "--mode", "host", "busybox", "sleep", "1000"]);
    wait_for_container(&host);
    bench.signal(Signal::KILL);
    let _ = bench.wait();
    let words = ["bench", "startup", "-n", "1", "--memory-runs", "0", "--mode", "host", "busybox"];
    host.run(&words).assert_clean();
    host.assert_nothing_left();
}
