//! The owner's socket is the machine's life.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use bulkhead_vmm::api::{End, FromVmm, Vmm};

use crate::guest::{Guest, guest, kvm, program};

guest!(busy_for_owner, "2: in al, 0x80; jmp 2b");

/// The environment variable that makes [`an_owner_that_is_killed`] one.
const ROLE: &str = "BULKHEAD_TEST_OWNER";

/// Not a test of its own: the process that the next test kills.
#[test]
fn an_owner_that_is_killed() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let guest = Guest::new(busy_for_owner());
    let (_vmm, mut messages) =
        Vmm::spawn(program(), &guest.config(), Stdio::inherit(), Stdio::null()).unwrap();
    while !matches!(messages.next_message().unwrap(), FromVmm::Mark { .. }) {}
    println!("machine runs");
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn the_machine_ends_when_its_owner_is_killed() {
    if !kvm() {
        return;
    }
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner::an_owner_that_is_killed", "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(owner.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("machine runs") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the owner ended by itself");
    }
    owner.kill().unwrap();
    owner.wait().unwrap();
    // The machine holds the other end of this pipe until it is gone.
    output.read_to_string(&mut line).unwrap();
}

/// The program with a socket for its owner, before it was told anything.
fn start() -> (std::process::Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(program())
        .args(["--owner-fd", "0"])
        .stdin(OwnedFd::from(theirs))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, ours)
}

#[test]
fn closing_the_socket_stops_the_machine() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(busy_for_owner());
    let (child, mut socket) = start();
    let config = serde_json::to_string(&guest.config()).unwrap();
    writeln!(socket, "{{\"configure\": {config}}}").unwrap();
    let mut line = String::new();
    BufReader::new(&socket).read_line(&mut line).unwrap();
    assert!(line.contains("process-started"), "{line}");
    drop(socket);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_owner_that_says_nothing_or_nonsense_is_told() {
    for (words, why) in [
        (String::new(), "the connection was closed"),
        ("nonsense\n".to_owned(), "cannot be understood"),
        (
            "{\"configure\": {\"kernel\": \"/x\", \"memory_mib\": 64, \"colour\": 1}}\n".to_owned(),
            "colour",
        ),
        ("{\"request\": {\"id\": 1, \"kind\": \"stop\"}}\n".to_owned(), "not a configuration"),
        (
            "{\"configure\": {\"kernel\": \"/nonexistent\", \"memory_mib\": 64}}\n".to_owned(),
            "/nonexistent",
        ),
    ] {
        let (child, mut socket) = start();
        socket.write_all(words.as_bytes()).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut line = String::new();
        BufReader::new(&socket).read_line(&mut line).unwrap();
        let message: FromVmm = serde_json::from_str(&line).unwrap();
        let FromVmm::Ended(End::Failed(reason)) = message else { panic!("{line}") };
        assert!(reason.contains(why), "{reason}");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(why));
    }
}
