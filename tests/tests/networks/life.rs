//! A server and its published port, from its start to its removal, however it ends.

use bulkhead_tests::harness::signal_process;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::stage::{GATEWAY, PORT, SERVER, SERVER6, Stage};

/// Both ways, what the container knows of itself, a restart, and the end.
pub(super) fn a_published_port(stage: &Stage) {
    let publish = format!("{PORT}:80");
    stage.serve(&["--network", "web", "-p", &publish]);
    stage.wait_for(SERVER, 80);
    stage.wait_for(SERVER6, 80);
    stage.wait_for(GATEWAY, PORT);
    stage.wait_for("127.0.0.1", PORT);
    // What the container sees.
    let script = "cat /etc/hostname /etc/resolv.conf /etc/hosts; ip -o address show eth0; ip route; touch /etc/hosts";
    let seen = stage.bulkhead(&["exec", "server", "sh", "-c", script]);
    let text = seen.text();
    for part in [
        "the-server\nnameserver 10.91.0.53\nsearch example\n",
        "127.0.0.1\tlocalhost\n",
        "10.91.0.2\tthe-server\n",
        "fd00:91::2\tthe-server\n",
        "inet 10.91.0.2/24",
        "inet6 fd00:91::2/64",
        "default via 10.91.0.1",
    ] {
        assert!(text.contains(part), "{part}: {seen}");
    }
    assert!(seen.error_text().contains("Read-only"), "{seen}");
    // What the user sees.
    let one = stage.inspect("server");
    let settings = &one["NetworkSettings"];
    assert_eq!(settings["Networks"]["web"]["IPAddress"], SERVER, "{settings}");
    assert_eq!(settings["Networks"]["web"]["GlobalIPv6Address"], SERVER6, "{settings}");
    assert_eq!(settings["Networks"]["web"]["Gateway"], GATEWAY, "{settings}");
    assert_eq!(
        settings["Ports"],
        json!({ "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": PORT.to_string() }] })
    );
    let shown = format!("0.0.0.0:{PORT}->80/tcp");
    assert!(stage.text(&["ps"]).contains(&shown));
    let listed: Value = serde_json::from_str(&stage.text(&["ps", "--json"])).unwrap();
    assert_eq!(
        (&listed[0]["addresses"], &listed[0]["network"]),
        (&json!([SERVER, SERVER6]), &json!("web"))
    );
    // It reaches a server on the bridge.
    let heard = stage
        .namespace
        .serve_once(format!("{GATEWAY}:18081").parse().unwrap(), "words of the host\n");
    let script = format!("echo words of the guest | nc {GATEWAY} 18081");
    assert_eq!(stage.text(&["exec", "server", "sh", "-c", &script]), "words of the host");
    assert_eq!(heard.join().unwrap(), format!("words of the guest from {SERVER}"));
    // Stopped, it has nothing; started again, the same port.
    stage.text(&["stop", "-t", "1", "server"]);
    assert_eq!((stage.name_at(GATEWAY, PORT), stage.leases()), (None, Vec::new()));
    assert_eq!(stage.inspect("server")["NetworkSettings"]["IPAddress"], "");
    stage.text(&["start", "server"]);
    stage.wait_for(GATEWAY, PORT);
    assert_eq!(stage.leases().len(), 2);
    stage.text(&["restart", "-t", "1", "server"]);
    stage.wait_for(GATEWAY, PORT);
    stage.text(&["rm", "-f", "server"]);
    assert_eq!(stage.name_at(GATEWAY, PORT), None);
}

/// Whoever is killed, the next command gives all back.
pub(super) fn killed_keepers(stage: &Stage) {
    let publish = format!("{PORT}:80");
    stage.serve(&["--network", "web", "-p", &publish]);
    stage.wait_for(GATEWAY, PORT);
    signal_process(keeper(stage), Signal::KILL);
    stage.text(&["rm", "-f", "server"]);
    stage.assert_nothing_left();
    // Its guardian, too.
    stage.serve(&["--network", "web", "-p", &publish]);
    stage.wait_for(GATEWAY, PORT);
    let keeper = keeper(stage);
    let guardian = parent(keeper);
    signal_process(guardian, Signal::KILL);
    signal_process(keeper, Signal::KILL);
    stage.wait("the container's end", || {
        stage.text(&["inspect", "-f", "{{.State.Status}}", "server"]) == "exited"
    });
    assert_eq!((stage.name_at(GATEWAY, PORT), stage.leases()), (None, Vec::new()));
    stage.text(&["start", "server"]);
    stage.wait_for(GATEWAY, PORT);
    stage.text(&["rm", "-f", "server"]);
}

fn keeper(stage: &Stage) -> u32 {
    let pid = stage.inspect("server")["State"]["KeeperPid"].as_u64().unwrap();
    u32::try_from(pid).unwrap()
}

fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

/// Without a file of a network: one is made for those who publish ports; and none for all others.
pub(super) fn the_default_network(stage: &Stage) {
    let publish = format!("127.0.0.1:{PORT}:80");
    stage.serve(&["-p", &publish]);
    stage.wait_for("127.0.0.1", PORT);
    let one = stage.inspect("server");
    let address = one["NetworkSettings"]["IPAddress"].as_str().unwrap();
    assert!(address.starts_with("10.89."), "{address}");
    assert_eq!(one["HostConfig"]["NetworkMode"], "bulkhead");
    assert!(stage.output("ip", &["-o", "address", "show", "bulkhead0"]).contains("10.89."));
    // Two on one network know each other's addresses.
    let script = format!("wget -q -O - http://{address}/name");
    let other = stage.run(&["--rm", "--network", "bulkhead", "busybox", "sh", "-c", &script]);
    other.assert_code(0);
    assert_eq!(other.text().trim(), "the-server");
    let script = "ip -o link; grep -q resolv.conf /proc/mounts || echo no names";
    for flags in [&["--network", "none"][..], &[]] {
        let none = stage.run(&[&["--rm"], flags, &["busybox", "sh", "-c", script]].concat());
        none.assert_code(0);
        assert!(none.text().contains("lo:") && !none.text().contains("eth0"), "{none}");
        assert!(none.text().contains("no names"), "{none}");
    }
    stage.text(&["rm", "-f", "server"]);
    let rules = stage.output("iptables-save", &[]);
    assert!(!rules.contains(address), "{rules}");
}
