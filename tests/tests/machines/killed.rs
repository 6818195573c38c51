//! Either side killed at any time: the other goes away by itself, and the next command cleans up.

use std::{fs, process::Command, thread, time::Duration};

use bulkhead_tests::harness::{Host, Running, signal_process};
use rustix::process::Signal;

use super::host_with_busybox;

/// A container that runs, and its VMM.
fn running(host: &Host) -> (Running, u32) {
    let mut run = host.boot(&["run", "--rm", "-i", "busybox", "cat"]);
    run.write(b"running\n");
    run.wait_for("running");
    let vmms = host.vmms();
    assert_eq!(vmms.len(), 1, "one VMM is running");
    (run, vmms[0])
}

#[test]
fn a_killed_command_leaves_its_container_to_others() {
    let Some(host) = host_with_busybox() else { return };
    let mut run = host.boot(&["run", "-i", "--name", "orphan", "busybox", "cat"]);
    run.write(b"running\n");
    run.wait_for("running");
    run.signal(Signal::KILL);
    drop(run);
    let living = host.run(&["ps", "--no-trunc"]);
    living.assert_code(0);
    assert!(living.text().contains("orphan"), "{living}");
    host.run(&["exec", "orphan", "true"]).assert_code(0);
    assert_eq!(host.vmms().len(), 1);
    host.run(&["rm", "-f", "orphan"]).assert_code(0);
    host.assert_nothing_left();
}

#[test]
fn a_command_says_that_its_machine_was_killed() {
    let Some(host) = host_with_busybox() else { return };
    let (run, vmm) = running(&host);
    signal_process(vmm, Signal::KILL);
    let outcome = run.wait();
    outcome.assert_code(125);
    let error = outcome.error_text();
    assert_eq!(error.lines().count(), 1, "{outcome}");
    assert!(error.contains("VMM") && error.contains("killed"), "{outcome}");
    host.assert_nothing_left();
}

#[test]
fn either_side_may_be_killed_while_the_guest_boots() {
    let Some(host) = host_with_busybox() else { return };
    for delay in [0, 30, 100, 300, 1000, 3000] {
        let run = host.boot(&["run", "--rm", "--template", "never", "busybox", "true"]);
        thread::sleep(Duration::from_millis(delay));
        run.signal(Signal::KILL);
        drop(run);
        // The container goes on without its client, if it had come so far, and is removed at its end; if not, the next
        // command removes what is there of it.
        thread::sleep(Duration::from_secs(1));
        while !host.vmms().is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
        host.run(&["image", "ls"]).assert_code(0);
        host.assert_nothing_left();
    }
    for delay in [0, 100, 1000, 3000] {
        let run = host.boot(&["run", "--rm", "--template", "never", "busybox", "sleep", "1000"]);
        let vmm = loop {
            if let Some(vmm) = host.vmms().first() {
                break *vmm;
            }
            thread::sleep(Duration::from_millis(5));
        };
        thread::sleep(Duration::from_millis(delay));
        signal_process(vmm, Signal::KILL);
        run.wait().assert_refused(125, &["VMM"]);
        host.assert_nothing_left();
    }
}

#[test]
fn a_start_can_be_interrupted() {
    let Some(host) = host_with_busybox() else { return };
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let run = host.boot(&["run", "--rm", "--template", "never", "busybox", "sleep", "1000"]);
        while host.vmms().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        run.signal(signal);
        let outcome = run.wait();
        outcome.assert_code(code);
        assert!(outcome.error_text().lines().count() <= 1, "{outcome}");
        host.assert_nothing_left();
    }
}

#[test]
fn a_closed_terminal_ends_the_container() {
    let Some(host) = host_with_busybox() else { return };
    // script(1) is the terminal's window: when it is killed, the terminal is gone.
    let inner =
        host.command(&["run", "--rm", "-it", "busybox", "sh", "-c", "echo running; sleep 1000"]);
    let words: Vec<_> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]);
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut window = host.boot_command(command);
    window.wait_for("running\r\n");
    window.signal(Signal::KILL);
    drop(window);
    host.assert_nothing_left();
}

#[test]
fn a_reader_that_goes_away_ends_nothing_but_the_stream() {
    let Some(host) = host_with_busybox() else { return };
    let file = host.path("status");
    let inner = host.command(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "yes | head -c 3000000; echo status $? >&2",
    ]);
    let words: Vec<_> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "{{ {}; echo code $? > {}; }} | head -n 1",
        words.join(" "),
        file.display()
    ));
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = host.boot_command(command).wait();
    assert_eq!(outcome.text(), "y\n", "{outcome}");
    let code = fs::read_to_string(&file).unwrap();
    assert!(
        code.starts_with("code ") && !outcome.error_text().contains("panicked"),
        "{code} {outcome}"
    );
    host.assert_nothing_left();
}
