//! `process.terminal`: the console socket gets the master; its size, keys, signals and end; for `exec` too.

use bulkhead_tests::harness::oci::{ConsoleSocket, Oci};
use serde_json::json;

isolations!(host: a_console, a_console_that_cannot_be; vm: a_console, a_console_that_cannot_be);

fn a_console(oci: &Oci) {
    let mut bundle = oci.bundle("console");
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    bundle.sh(
        "tty; stty size; ls -l /proc/self/fd/0 /dev/console; trap 'echo INTERRUPTED' INT; trap 'stty size' WINCH
         while :; do read line && echo \"got <$line>\"; [ \"$line\" = end ] && exit 5; done",
    );
    let socket = ConsoleSocket::new(oci.path("console.sock"));
    let path = socket.path().display().to_string();
    oci.create_with("console", &bundle, &["--console-socket", &path]).assert_code(0);
    let mut master = socket.receive();
    let pid = oci.pid("console");
    oci.run(&["start", "console"]).assert_code(0);
    // Within the container's own devpts; the terminal is /dev/console too.
    master.wait_for("/dev/pts/0\r\n");
    master.wait_for("33 77\r\n");
    master.wait_for("/dev/console");
    master.type_keys("hello\n");
    master.wait_for("got <hello>\r\n");
    master.resize(24, 99);
    master.wait_for("24 99\r\n");
    master.type_keys("\u{3}");
    master.wait_for("INTERRUPTED");
    // exec with a terminal of its own.
    let exec_socket = ConsoleSocket::new(oci.path("exec.sock"));
    let exec_path = exec_socket.path().display().to_string();
    let exec_pid = oci.path("exec.pid").display().to_string();
    let program = ["console", "sh", "-c", "tty; read line; echo again $line; exit 3"];
    let options =
        ["exec", "--detach", "--tty", "--console-socket", &exec_path, "--pid-file", &exec_pid];
    oci.run(&[&options[..], &program].concat()).assert_code(0);
    let mut second = exec_socket.receive();
    second.wait_for("/dev/pts/1\r\n");
    second.type_keys("there\n");
    second.wait_for("again there\r\n");
    // A first process does not end before those that were put into its namespace are reaped.
    assert_eq!(oci.exit_code(std::fs::read_to_string(&exec_pid).unwrap().parse().unwrap()), 3);
    master.type_keys("end\n");
    master.wait_for("got <end>");
    assert_eq!(oci.exit_code(pid), 5);
    oci.wait_for_status("console", "stopped");
    oci.run(&["delete", "console"]).assert_code(0);
    // The caller's terminal, for run in the foreground.
    bundle.sh("tty; stty size; read line; echo \"said $line\"; exit 4");
    bundle.config["process"].as_object_mut().unwrap().remove("consoleSize");
    bundle.write();
    let bundle_path = bundle.path.display().to_string();
    let mut terminal = bulkhead_tests::harness::Terminal::of(
        &oci.command(&["run", "--bundle", &bundle_path, "console"]),
        31,
        71,
    );
    terminal.wait_for("/dev/pts/0\r\n");
    terminal.wait_for("31 71\r\n");
    terminal.type_keys("this\n");
    terminal.wait_for("said this\r\n");
    assert_eq!(terminal.wait().code(), Some(4));
}

/// A terminal without a socket, a socket without a terminal, a socket that is none.
fn a_console_that_cannot_be(oci: &Oci) {
    let mut bundle = oci.bundle("none");
    let socket = ConsoleSocket::new(oci.path("console.sock"));
    let path = socket.path().display().to_string();
    let refused = |outcome: bulkhead_tests::harness::Outcome| {
        assert_eq!(outcome.code(), 1, "{outcome}");
        assert!(outcome.error_text().to_lowercase().contains("console"), "{outcome}");
        assert_ne!(oci.run(&["state", "none"]).code(), 0);
    };
    refused(oci.create_with("none", &bundle, &["--console-socket", &path]));
    bundle.config["process"]["terminal"] = json!(true);
    refused(oci.create_with("none", &bundle, &[]));
    let outcome = oci.create_with("none", &bundle, &["--console-socket", "/no/such/socket"]);
    assert_eq!(outcome.code(), 1, "{outcome}");
    assert_ne!(oci.run(&["state", "none"]).code(), 0);
}
