//! Exit codes and signals.

use bulkhead_tests::harness::image_with_probe;
use bulkhead_tests::{
    harness::Host,
    image::{Compression, Entry, Layer, Name},
};
use rustix::process::Signal;

use super::host_with_busybox;

#[test]
fn a_programs_exit_code_is_the_commands() {
    let Some(host) = host_with_busybox() else { return };
    host.boot(&["run", "--rm", "busybox", "sh", "-c", "exit 77"]).wait().assert_code(77);
    host.assert_nothing_left();
}

#[test]
fn a_program_that_a_signal_ends_gives_128_and_the_signal() {
    let Some(host) = host_with_busybox() else { return };
    // As pid 1 of its namespace it would survive its own signal: a default action does not apply there (pid_namespaces(7)).
    let outcome = host
        .boot(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "sh -c 'kill -SEGV $$'; echo inner $?; exit 139",
        ])
        .wait();
    outcome.assert_code(139);
    assert_eq!(outcome.value("inner"), "139");
    host.assert_nothing_left();
}

#[test]
fn a_program_that_is_not_there_gives_127_and_one_that_cannot_run_126() {
    let Some(host) = Host::with_kvm() else { return };
    let mut image = image_with_probe(Name::Busybox);
    let more = [
        Entry::file("not-executable", "#!/bin/sh\necho ran\n"),
        Entry::file("not-a-program", "\x01\x02 this is no program").mode(0o755),
        Entry::file("no-interpreter", "#!/no/such/interpreter\n").mode(0o755),
    ];
    image.layers.push(Layer::new(&more, Compression::None));
    let source = host.source("image", &image);
    for (program, code) in [
        ("/no/such/program", 127),
        ("no-such-name", 127),
        ("/not-executable", 126),
        ("/not-a-program", 126),
        ("/etc", 126),
    ] {
        host.boot(&["run", "--rm", &source, program]).wait().assert_refused(code, &[program]);
        host.assert_nothing_left();
    }
    // What execve(2) says of a missing interpreter is "not found".
    host.boot(&["run", "--rm", &source, "/no-interpreter"])
        .wait()
        .assert_refused(127, &["/no-interpreter"]);
}

#[test]
fn a_signal_to_the_command_reaches_the_program() {
    let Some(host) = host_with_busybox() else { return };
    let script = "for s in TERM HUP USR1 USR2; do trap \"echo got-$s\" $s; done; trap 'echo got-INT; exit 9' INT; \
                  echo ready; while true; do sleep 0.2; done";
    let mut shell = host.boot(&["run", "--rm", "busybox", "sh", "-c", script]);
    shell.wait_for("ready");
    for (signal, name) in [
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
    ] {
        shell.signal(signal);
        shell.wait_for(&format!("got-{name}\n"));
    }
    shell.wait().assert_code(9);
    host.assert_nothing_left();
}

#[test]
fn a_program_that_dies_of_a_forwarded_signal_gives_128_and_the_signal() {
    let Some(host) = host_with_busybox() else { return };
    // The default action of SIGTERM is not for pid 1 of a namespace, so the program resets nothing and ignores nothing
    // but is a child that its shell waits for and copies.
    let script = "sh -c 'echo ready; exec sleep 1000' & child=$!; trap 'kill -TERM $child' TERM; wait $child; wait $child; exit $?";
    let mut shell = host.boot(&["run", "--rm", "busybox", "sh", "-c", script]);
    shell.wait_for("ready");
    shell.signal(Signal::TERM);
    shell.wait().assert_code(143);
    host.assert_nothing_left();
}

#[test]
fn a_program_that_ignores_sigterm_lives_on_until_it_is_insisted() {
    let Some(host) = host_with_busybox() else { return };
    let script = "trap '' TERM INT; echo ready; while read line; do echo alive $line; done";
    let mut shell = host.boot(&["run", "--rm", "-i", "busybox", "sh", "-c", script]);
    shell.wait_for("ready");
    shell.signal(Signal::TERM);
    shell.write(b"1\n");
    shell.wait_for("alive 1");
    shell.signal(Signal::TERM);
    shell.write(b"2\n");
    shell.wait_for("alive 2");
    shell.signal(Signal::TERM);
    shell.wait().assert_code(137);
    host.assert_nothing_left();
}
