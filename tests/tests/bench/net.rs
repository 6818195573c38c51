//! `bench net`: every step is done in both isolations, and costs what must be.

use bulkhead_tests::harness::kvm_missing;

use super::{host, read, samples};

#[test]
fn a_network_is_measured_in_both_isolations() {
    if kvm_missing() {
        return;
    }
    let Some(host) = host() else { return };
    let path = host.path("net.json");
    let words = ["bench", "net", "-n", "2", "--size", "64k", "--count", "3", "--timeout", "500"];
    let words = [&words[..], &["--json", path.to_str().unwrap(), "busybox"]].concat();
    host.boot(&words).wait().assert_code(0);
    let report = read(&path);
    assert_eq!(report["kind"], "net");
    for step in ["receive", "send", "turn", "datagram", "connect"] {
        for subject in ["vm", "host"] {
            let rates = samples(&report, "network", &format!("{step}-rate"), subject);
            assert!(rates.len() == 2 && rates.iter().all(|rate| *rate > 0.0), "{step} {rates:?}");
        }
    }
    let frames = |step: &str| samples(&report, "network", &format!("{step}-requests"), "vm");
    // There and back. One frame carries 64 KiB at most, and its header.
    assert!(frames("turn").iter().chain(&frames("datagram")).all(|count| *count >= 2.0));
    assert!(frames("receive").iter().chain(&frames("send")).all(|count| *count > 0.06));
    host.assert_nothing_left();
}
