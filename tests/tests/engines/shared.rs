//! What the engines' tests share: an image's archive, and a runtime that an engine starts.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_tests::harness::{
    Terminal, guest_kernel,
    oci::{Isolation, Oci, Peer},
    templates, write_archive,
};

/// The image's name in every engine.
pub(super) const IMAGE: &str = "localhost/busybox:test";

/// A run in the foreground, by an engine's command with these arguments: standard input, both outputs, the exit code.
pub(super) fn streams_and_code(oci: &Oci, command: impl Fn(&[&str]) -> Command) {
    let arguments = ["run", "--rm", "-i", "--network", "none", IMAGE, "sh", "-c"];
    let mut run =
        oci.start_command(command(&[&arguments[..], &["cat; echo problem >&2; exit 23"]].concat()));
    run.feed(b"through standard input\n".to_vec());
    let outcome = run.wait();
    outcome.assert_code(23);
    assert_eq!(
        (outcome.text().as_str(), outcome.error_text().as_str()),
        ("through standard input\n", "problem\n")
    );
}

/// An exec with a terminal in a running container, by an engine's command with these arguments: its device, typed input, the exit code.
pub(super) fn exec_on_a_terminal(container: &str, command: impl Fn(&[&str]) -> Command) {
    let script = "tty; read line; echo got $line; exit 8";
    let mut terminal =
        Terminal::of(&command(&["exec", "-it", container, "sh", "-c", script]), 30, 80);
    terminal.wait_for("/dev/pts/");
    terminal.type_keys("typed\n");
    terminal.wait_for("got typed");
    assert_eq!(terminal.wait().code(), Some(8), "{}", terminal.screen());
}

/// The image [`IMAGE`] with the probe, as docker's archive.
pub(super) fn archive(oci: &Oci) -> PathBuf {
    let file = oci.path("busybox.tar");
    write_archive(IMAGE, &file);
    file
}

/// The name by which engines know the isolation.
pub(super) fn isolation(oci: &Oci) -> Option<&'static str> {
    match oci.peer() {
        Peer::Bulkhead(Isolation::Host) => Some("host"),
        Peer::Bulkhead(Isolation::Vm) => Some("vm"),
        Peer::Runc | Peer::Crun => None,
    }
}

/// A program that engines start as runtime. They clear the environment, so that it sets what the test wants.
pub(super) fn runtime(oci: &Oci) -> PathBuf {
    let (program, _) = oci.program();
    let script = format!(
        "#!/bin/sh\nexport BULKHEAD_TEST='{}' BULKHEAD_KERNEL='{}' BULKHEAD_TEMPLATES='{}' BULKHEAD_BOOT_TIMEOUT=500\n\
         exec '{}' --root '{}' \"$@\"\n",
        oci.path("").display().to_string().trim_end_matches('/'),
        if oci.is_vm() { guest_kernel() } else { PathBuf::new() }.display(),
        if oci.is_vm() { templates() } else { Path::new("") }.display(),
        program.display(),
        oci.root().display(),
    );
    let file = oci.path("runtime");
    write_program(&file, &script);
    file
}

/// Writes an executable file.
pub(super) fn write_program(file: &Path, text: &str) {
    fs::write(file, text).expect("a file");
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("a mode");
}
