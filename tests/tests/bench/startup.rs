//! `bench startup` and `bench compare`.

use bulkhead_tests::harness::kvm_missing;
use serde_json::Value;

use super::{host, read, samples};

/// The phases of a life that everybody has, in order.
const SEEN: [&str; 4] = ["created", "first-instruction", "exit", "deleted"];
const OF_A_MICROVM: [&str; 7] = [
    "vmm-spawned",
    "first-kvm-run",
    "agent-ready",
    "created",
    "first-instruction",
    "exit",
    "deleted",
];

/// Each life's phases follow each other, and there are as many lives as were wanted.
fn assert_in_order(report: &Value, subject: &str, phases: &[&str], lives: usize) {
    let phases: Vec<_> =
        phases.iter().map(|phase| samples(report, "phases", phase, subject)).collect();
    for (n, pair) in phases.windows(2).enumerate() {
        assert_eq!((pair[0].len(), pair[1].len()), (lives, lives), "{subject}");
        for (before, after) in pair[0].iter().zip(&pair[1]) {
            assert!(0.0 < *before && before <= after, "{subject}, phase {n}: {before} {after}");
        }
    }
}

#[test]
fn plain_containers_beside_their_peers() {
    let Some(host) = host() else { return };
    let (json, html) = (host.path("a.json"), host.path("a.html"));
    let (json_word, html_word) = (json.to_str().unwrap(), html.to_str().unwrap());
    let mut words = vec!["bench", "startup", "-n", "3", "--mode", "host", "--memory-runs", "1"];
    words.extend(["--peer", "runc=runc", "--peer", "crun=crun", "--at-once", "2"]);
    words.extend(["--json", json_word, "--html", html_word, "busybox", "true"]);
    let outcome = host.run(&words);
    outcome.assert_clean();
    let report = read(&json);
    assert_eq!(report["schema"], "bulkhead-bench/1");
    for subject in ["host", "runc", "crun"] {
        assert_in_order(&report, subject, &SEEN, 3);
        let costs = samples(&report, "costs", "processor", subject);
        assert!(costs.len() == 3 && costs.iter().all(|cost| *cost > 0.0), "{costs:?}");
        assert!(samples(&report, "memory", "pss", subject)[0] > 0.0);
        assert!(samples(&report, "at-once", "rate-2", subject)[0] > 0.0);
        // Two workers have the same number of lives each.
        assert_eq!(samples(&report, "at-once", "first-instruction-2", subject).len(), 4);
        assert!(outcome.text().contains(subject), "{outcome}");
    }
    assert!(std::fs::read_to_string(html).unwrap().contains("<svg"));
    host.assert_nothing_left();
    // Nothing has changed since itself, and three samples could not show it either.
    let compared = host.run(&["bench", "compare", json_word, json_word]);
    compared.assert_clean();
    assert!(compared.text().contains("0 better, 0 worse"), "{compared}");
}

#[test]
fn microvms_prove_that_they_booted_or_were_cloned() {
    if kvm_missing() {
        return;
    }
    let Some(host) = host() else { return };
    let json = host.path("a.json");
    let json_word = json.to_str().unwrap();
    let mut words = vec!["bench", "startup", "-n", "1", "--warm-up", "0", "--mode", "cold,clone"];
    words.extend(["--memory-runs", "1", "--timeout", "500", "--json", json_word, "busybox"]);
    host.boot(&words).wait().assert_clean();
    let report = read(&json);
    for subject in ["cold", "clone"] {
        assert_in_order(&report, subject, &OF_A_MICROVM, 1);
        assert!(samples(&report, "memory", "guest-touched", subject)[0] > 1e6);
    }
    assert!(samples(&report, "costs", "template", "clone")[0] > 0.0);
    host.assert_nothing_left();
}
