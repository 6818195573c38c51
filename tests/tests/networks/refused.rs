//! What cannot be had is refused in one line, and nothing of it stays.

use std::{fs, net::TcpListener, process::Command};

use serde_json::json;

use super::stage::{GATEWAY, PORT, Stage, portmap};

/// Ports in use, addresses in use, networks that there are not.
pub(super) fn ports_and_addresses_that_others_have(stage: &Stage) {
    let one =
        json!([[{ "subnet": "10.91.0.0/24", "rangeStart": "10.91.0.2", "rangeEnd": "10.91.0.2" }]]);
    stage.write("small", &[stage.bridge(&one), portmap()]);
    let publish = format!("{PORT}:80");
    let refused = |flags: &[&str], words: &[&str]| {
        stage.run(&[flags, &["busybox", "true"]].concat()).assert_refused(125, words);
    };
    refused(&["--network", "nowhere"], &["no network \"nowhere\"", "bulkhead, small, web"]);
    refused(&["--network", "none", "-p", &publish], &["--network none has no ports"]);
    refused(&["-p", &publish, "-p", &format!("0.0.0.0:{PORT}:81")], &["twice"]);
    let port = PORT.to_string();
    let listener = stage.namespace.within(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap());
    refused(&["--network", "web", "-p", &publish], &[&port, "in use on this host"]);
    drop(listener);
    refused(
        &["--network", "web", "-p", "192.0.2.1:1:80"],
        &["192.0.2.1:1/tcp", "no address of this host"],
    );
    assert!(stage.leases().is_empty());
    stage.serve(&["--network", "small", "-p", &publish]);
    stage.wait_for(GATEWAY, PORT);
    refused(&["--network", "web", "-p", &publish], &[&port, "published by container server"]);
    // The one address is the server's until it ends.
    refused(
        &["--network", "small"],
        &["network \"small\"", "plugin bridge (ADD)", "no IP addresses available"],
    );
    assert_eq!(stage.leases(), ["10.91.0.2"]);
    stage.wait_for(GATEWAY, PORT);
    stage.text(&["rm", "-f", "server"]);
    let again = stage.run(&["--rm", "--network", "small", "busybox", "hostname"]);
    again.assert_code(0);
}

/// Plugins that are missing, fail, write rubbish, hang, or cannot undo what they did.
pub(super) fn plugins_that_fail(stage: &Stage) {
    let directory = stage.host.path("plugins");
    fs::create_dir(&directory).unwrap();
    let plugin = |name: &str, script: &str| {
        // Another process writes it: a child of another test could have the file open for writing when it is run.
        let mut write = Command::new("sh");
        write.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\""]);
        assert!(write.arg(directory.join(name)).arg(script).status().unwrap().success());
    };
    let run = |network: &str, words: &[&str]| {
        let kind = stage.kind();
        let words = [&["run", "--isolation", kind, "--network", network], words].concat();
        let mut command = stage.command(&[&words[..], &["busybox", "true"]].concat());
        command
            .env("BULKHEAD_CNI_PATH", format!("{}:/usr/lib/cni:/opt/cni/bin", directory.display()));
        if network == "hangs" {
            command.env("BULKHEAD_CNI_TIMEOUT", "5");
        }
        stage.host.boot_command(command).wait()
    };
    let ranges = json!([[{ "subnet": "10.91.0.0/24" }]]);
    for name in ["rubbish", "fails", "keeps"] {
        stage.write(name, &[stage.bridge(&ranges), json!({ "type": name })]);
    }
    stage.write("hangs", &[json!({ "type": "hangs" })]);
    let refused = |network: &str, words: &[&str]| {
        run(network, &[]).assert_refused(125, words);
        assert_eq!(stage.leases(), [""; 0]);
    };
    refused("rubbish", &["needs the CNI plugin \"rubbish\"", "BULKHEAD_CNI_PATH"]);
    plugin("rubbish", "echo rubbish");
    refused("rubbish", &["plugin rubbish (ADD)", "it wrote no result: rubbish"]);
    plugin("hangs", "[ $CNI_COMMAND = DEL ] || sleep 1000");
    refused("hangs", &["plugin hangs (ADD)", "has not ended in 5 s"]);
    plugin(
        "fails",
        "[ $CNI_COMMAND = DEL ] || { echo '{\"code\":100,\"msg\":\"on strike\"}'; exit 1; }",
    );
    refused("fails", &["plugin fails (ADD)", "on strike"]);
    let flat = json!({ "type": "bridge", "bridge": "test1", "ipam": {} });
    stage.write("flat", &[flat, portmap()]);
    let bare = run("flat", &["--rm"]);
    bare.assert_code(0);
    assert!(bare.error_text().contains("gives its containers no addresses"), "{bare}");
    run("flat", &["-p", "1:1"]).assert_refused(125, &["network \"flat\"", "no address"]);
    // What does not take back what it gave is told of, and kept until somebody insists.
    plugin(
        "keeps",
        "[ $CNI_COMMAND = DEL ] && { echo no >&2; exit 1; }; sed 's/.*\"prevResult\"://; s/,\"type\":\"keeps\"}$//'",
    );
    let kept = run("keeps", &["--name", "kept"]);
    kept.assert_code(0);
    assert!(kept.error_text().contains("plugin keeps (DEL): no"), "{kept}");
    let refused = stage.bulkhead(&["rm", "kept"]);
    refused.assert_refused(1, &["cannot give back", "plugin keeps (DEL): no"]);
    let removed = stage.bulkhead(&["rm", "-f", "kept"]);
    removed.assert_code(0);
    assert!(removed.error_text().contains("may still hold addresses"), "{removed}");
}
