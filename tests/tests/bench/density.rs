//! `bench density`.

use super::{host, read, samples};

#[test]
fn idle_containers_are_counted_measured_and_removed() {
    let Some(host) = host() else { return };
    let json = host.path("d.json");
    let mut words = vec!["bench", "density", "-n", "3", "--mode", "host", "--watch", "2"];
    words.extend(["--json", json.to_str().unwrap(), "busybox"]);
    host.run(&words).assert_clean();
    let report = read(&json);
    for (group, measure) in [("growth", "start"), ("growth", "taken"), ("each", "pss")] {
        assert_eq!(samples(&report, group, measure, "host").len(), 3, "{measure}");
    }
    assert!(samples(&report, "each", "private", "host").iter().all(|size| *size > 0.0));
    let notes = report["notes"].to_string();
    assert!(notes.contains("3 in all; as many as were asked for"), "{notes}");
    assert!(notes.contains("measured for 2 s"), "{notes}");
    host.assert_nothing_left();
}

#[test]
fn a_limit_of_memory_ends_it() {
    let Some(host) = host() else { return };
    // Whatever else happens on this machine: from the first on they have taken nothing or more.
    let words = ["bench", "density", "-n", "3", "--limit-memory", "0", "--mode", "host", "busybox"];
    let outcome = host.run(&words);
    outcome.assert_clean();
    assert!(outcome.text().contains("host: 1 in all; then they had taken"), "{outcome}");
    host.assert_nothing_left();
}
