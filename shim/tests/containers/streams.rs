//! Standard input and output of a command in the foreground, its terminal, its signals.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, host, text, until};

fn signal(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
}

/// Runs a command on a terminal of its own, types something, and returns what was shown and the exit code.
fn on_terminal(host: &Host, words: &[&str], typed: &str) -> (String, Option<i32>) {
    let inner = host.command(words);
    let line: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")))
        .collect();
    let mut script = Command::new("script");
    script.args([
        "-q",
        "-e",
        "-c",
        &format!("stty rows 33 cols 111; {}", line.join(" ")),
        "/dev/null",
    ]);
    script.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    // What is typed before the program has the terminal is for its echo to show twice.
    while !text(&seen).contains("ready") {
        let length = output.read(&mut chunk).unwrap();
        assert!(length > 0, "{}", text(&seen));
        seen.extend_from_slice(&chunk[..length]);
    }
    input.write_all(typed.as_bytes()).unwrap();
    output.read_to_end(&mut seen).unwrap();
    let code = child.wait().unwrap().code();
    (text(&seen), code)
}

#[test]
fn exit_codes_are_the_programs_or_say_that_it_did_not_run() {
    let Some(host) = host() else { return };
    for code in [0, 1, 77, 255] {
        let output = host.run(&["run", "--rm", "busybox", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code));
    }
    host.refused(&["run", "busybox", "/no/such"], 127, "/no/such");
    host.refused(&["run", "busybox", "/etc"], 126, "/etc");
    host.refused(&["run", "--kernel", "/x", "busybox"], 125, "--kernel");
    host.refused(&["run", "-it", "busybox", "sh"], 125, "terminal");
    host.refused(&["run", "no-such-image"], 125, "no-such-image");
    host.assert_nothing_left();
}

#[test]
fn ten_mib_go_through_and_end() {
    let Some(host) = host() else { return };
    let data: Vec<u8> =
        (0..10_u32 << 18).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_be_bytes()).collect();
    let limit = ["--log-opt", "max-size=1m", "--log-opt", "max-file=1"];
    let words = [&["run", "--rm", "-i"], &limit[..], &["busybox", "cat"]].concat();
    let mut command = host.command(&words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let copy = data.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == data, "{} bytes", output.stdout.len());
    host.assert_nothing_left();
}

#[test]
fn without_i_the_input_is_empty() {
    let Some(host) = host() else { return };
    let mut command = host.command(&["run", "--rm", "busybox", "wc", "-c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"not for it").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "0\n");
}

#[test]
fn signals_reach_the_program_and_insisting_kills_it() {
    let Some(host) = host() else { return };
    let script = "trap 'echo got TERM' TERM; trap 'echo got USR1' USR1; echo ready; while true; do sleep 0.05; done";
    let mut command = host.command(&["run", "--name", "c1", "busybox", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    until(|| text(&host.run(&["logs", "c1"]).stdout).contains("ready"));
    signal(&child, Signal::USR1);
    host.wait_for_log("c1", "got USR1");
    signal(&child, Signal::TERM);
    host.wait_for_log("c1", "got TERM");
    signal(&child, Signal::TERM);
    until(|| host.ok(&["logs", "c1"]).matches("got TERM").count() == 2);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    host.ok(&["rm", "c1"]);
}

#[test]
fn a_terminal_has_its_size_and_its_keys() {
    let Some(host) = host() else { return };
    let script = "stty size; echo ready; read line; echo \"line $line\"; exit 7";
    let words = ["run", "--rm", "-it", "busybox", "sh", "-c"];
    let (screen, code) = on_terminal(&host, &[&words[..], &[script]].concat(), "hello\r");
    assert_eq!(code, Some(7), "{screen}");
    for part in ["33 111", "line hello"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let script = "trap 'echo interrupted; exit 8' INT; echo ready; while true; do sleep 0.05; done";
    let (screen, code) = on_terminal(&host, &[&words[..], &[script]].concat(), "\x03");
    assert_eq!(code, Some(8), "{screen}");
    assert!(screen.contains("interrupted"), "{screen}");
    host.assert_nothing_left();
}

#[test]
fn the_detach_keys_leave_a_container_running_that_can_be_joined_again() {
    let Some(host) = host() else { return };
    // Whoever joins it later sees that it is ready, too.
    let script = "while true; do echo ready; sleep 0.2; done & \
                  while read line; do echo \"line $line\"; [ \"$line\" = end ] && exit 9; done";
    let (_, code) = on_terminal(
        &host,
        &["run", "-it", "--name", "c1", "busybox", "sh", "-c", script],
        "first\r\x10\x11",
    );
    assert_eq!(code, Some(0));
    host.wait_for_log("c1", "line first");
    host.wait_for("c1", "State.Status", "running");
    let (screen, code) = on_terminal(&host, &["attach", "c1"], "end\r");
    assert_eq!(code, Some(9), "{screen}");
    host.ok(&["rm", "c1"]);
    host.assert_nothing_left();
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let Some(host) = host() else { return };
    host.ok(&["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]);
    let script = "tty; stty size; echo ready; read line; echo \"line $line\"; exit 3";
    let (screen, code) = on_terminal(&host, &["exec", "-it", "c1", "sh", "-c", script], "hello\r");
    assert_eq!(code, Some(3), "{screen}");
    for part in ["/dev/pts/", "33 111", "line hello"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    host.ok(&["rm", "-f", "c1"]);
    host.assert_nothing_left();
}

#[test]
fn two_who_are_attached_see_the_same() {
    let Some(host) = host() else { return };
    let script = "while read line; do echo \"line $line\"; done; echo end of input";
    host.ok(&["run", "-d", "-i", "--name", "c1", "busybox", "sh", "-c", script]);
    let attach = || {
        let mut command = host.command(&["attach", "c1"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let (mut one, mut two) = (attach(), attach());
    let byte = |child: &mut std::process::Child, want: &str| {
        let mut seen = vec![0; want.len()];
        child.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
        assert_eq!(text(&seen), want);
    };
    // Both are there when they have seen something.
    std::thread::sleep(std::time::Duration::from_millis(300));
    one.stdin.as_mut().unwrap().write_all(b"1\n").unwrap();
    byte(&mut one, "line 1\n");
    byte(&mut two, "line 1\n");
    // The input of one ends, and the container's does not: it was not made for him.
    drop(one.stdin.take());
    two.stdin.as_mut().unwrap().write_all(b"2\n").unwrap();
    byte(&mut one, "line 2\n");
    byte(&mut two, "line 2\n");
    host.ok(&["stop", "-t", "0", "c1"]);
    assert_eq!(one.wait().unwrap().code(), Some(137));
    assert_eq!(two.wait().unwrap().code(), Some(137));
    host.ok(&["rm", "c1"]);
}
