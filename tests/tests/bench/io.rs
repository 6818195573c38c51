//! `bench io`: every step is done in both isolations, and costs what must be.

use bulkhead_tests::harness::{Host, kvm_missing};
use serde_json::Value;

use super::{host, read, samples};

fn bench(host: &Host) -> Value {
    let path = host.path("io.json");
    let words = ["bench", "io", "-n", "2", "--size", "64k", "--count", "3", "--timeout", "500"];
    let words = [&words[..], &["--json", path.to_str().unwrap(), "busybox"]].concat();
    host.boot(&words).wait().assert_code(0);
    read(&path)
}

#[test]
fn every_step_is_done_in_both_isolations() {
    if kvm_missing() {
        return;
    }
    let Some(host) = host() else { return };
    let report = bench(&host);
    for (area, steps) in [
        ("block", ["image-read", "layer-write", "layer-sync", "layer-open", "layer-remove"]),
        ("share", ["share-read", "share-write", "share-sync", "share-stat", "share-remove"]),
        ("streams", ["output", "input", "echo", "output", "input"]),
    ] {
        for step in steps {
            for subject in ["vm", "host"] {
                let rates = samples(&report, area, &format!("{step}-rate"), subject);
                assert!(
                    rates.len() == 2 && rates.iter().all(|rate| *rate > 0.0),
                    "{step} {rates:?}"
                );
            }
        }
    }
    let requests = |area: &str, step: &str, subject: &str| {
        samples(&report, area, &format!("{step}-requests"), subject)
    };
    // What is made durable has reached the device, and what is shared is the host's to tell.
    assert!(requests("block", "layer-sync", "vm").iter().all(|count| *count >= 1.0));
    assert!(requests("share", "share-stat", "vm").iter().all(|count| *count >= 1.0));
    assert!(requests("streams", "echo", "vm").iter().all(|count| *count >= 2.0));
    host.assert_nothing_left();
}
