//! `ps` and `events`: what they tell of processes and resources, in runc's shapes.

use bulkhead_tests::harness::oci::Oci;
use serde_json::{Value, json};

isolations!(host: processes, statistics; vm: processes, statistics);

/// `ps` as a table, with ps's own flags, and as JSON.
fn processes(oci: &Oci) {
    let mut bundle = oci.bundle("ps");
    bundle.sh("sleep 1234 & sleep 1235 & exec sleep 1236");
    oci.create_and_start("ps", &bundle);
    let programs = ["sleep 1234", "sleep 1235", "sleep 1236"];
    // A shell's child is a shell until it executes.
    oci.wait("each program once", || {
        let text = oci.run(&["ps", "ps"]).text();
        text.lines().count() == 4
            && programs.iter().all(|program| text.matches(program).count() == 1)
    });
    let table = oci.run(&["ps", "ps"]);
    table.assert_code(0);
    let text = table.text();
    let heading = text.lines().next().unwrap();
    assert!(heading.contains("PID") && heading.contains("CMD"), "{table}");
    assert_eq!(text.lines().count(), 4, "{table}");
    let json = oci.run(&["ps", "--format", "json", "ps"]);
    json.assert_code(0);
    let pids: Vec<u32> =
        serde_json::from_slice(&json.stdout).unwrap_or_else(|error| panic!("{error}: {json}"));
    // Pids of the host: in a microVM there is one, that of the process that stands for the container.
    assert_eq!(pids.len(), if oci.is_vm() { 1 } else { 3 }, "{json}");
    assert!(pids.contains(&oci.pid("ps")), "{json}");
    if !oci.is_vm() {
        let some = oci.run(&["ps", "ps", "-o", "pid,args"]);
        some.assert_code(0);
        assert_eq!(
            some.text().lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["PID", "COMMAND"],
            "{some}"
        );
    }
    assert_ne!(oci.run(&["ps", "--format", "yaml", "ps"]).code(), 0);
    oci.delete_force("ps");
}

/// `events --stats` once, `events` at an interval, and the event of too much memory.
fn statistics(oci: &Oci) {
    let mut bundle = oci.bundle("events");
    bundle.config["linux"]["resources"]["memory"] =
        json!({"limit": 41_943_040, "swap": 41_943_040});
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 40});
    bundle.sh("sh -c 'while [ ! -e /tmp/go ]; do sleep 0.1; done; exec /probe hog 100' > /dev/null 2>&1 & exec sleep 1000");
    oci.create_and_start("events", &bundle);
    let lines = || oci.run(&["ps", "events"]).text().lines().count();
    oci.wait("two processes", || lines() >= 3);
    let outcome = oci.run(&["events", "--stats", "events"]);
    outcome.assert_clean();
    let event: Value = serde_json::from_slice(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {outcome}"));
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!("events")));
    let data = &event["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|time| time > 0), "{event}");
    assert!(data["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{event}");
    assert_eq!(data["memory"]["usage"]["limit"], 41_943_040, "{event}");
    assert!(data["pids"]["current"].as_u64().is_some_and(|count| count >= 2), "{event}");
    assert_eq!(data["pids"]["limit"], 40, "{event}");
    let mut follow = oci.start(&["events", "--interval", "1s", "events"]);
    follow.wait_for("\"type\":\"stats\"");
    follow.wait_for("\"type\":\"stats\"");
    oci.run(&["exec", "events", "touch", "/tmp/go"]).assert_code(0);
    follow.wait_for("\"type\":\"oom\"");
    oci.run(&["kill", "events", "KILL"]).assert_code(0);
    oci.wait_for_status("events", "stopped");
    assert_ne!(oci.run(&["events", "--stats", "events"]).code(), 0, "a stopped container has none");
    oci.run(&["delete", "events"]).assert_code(0);
    // It ends with the container; runc's with the cgroup.
    follow.wait();
}
