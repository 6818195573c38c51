//! Whoever is killed, the next command tells the truth, and nothing is left behind.

use std::{fs, path::PathBuf, process::Stdio, thread, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::host::{Host, host, is_alive, kill, text, until};

const TICK: &str = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.05; done";

/// The parent of a process.
fn parent(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = stat.rsplit(')').next().unwrap();
    rest.split_whitespace().nth(1).unwrap().to_owned()
}

/// A container that ticks: its keeper's and its own pid.
fn ticking(host: &Host, more: &[&str]) -> (String, String) {
    let words = [&["run", "-d", "--name", "tick"], more, &["busybox", "sh", "-c", TICK]].concat();
    host.ok(&words);
    host.wait_for_log("tick", "line 3\n");
    (host.field("tick", "State.KeeperPid"), host.field("tick", "State.Pid"))
}

#[test]
fn a_killed_keeper_takes_its_container_along_and_leaves_the_log() {
    let Some(host) = host() else { return };
    let (keeper, container) = ticking(&host, &[]);
    kill(&keeper);
    // Its guardian does it, without any command.
    until(|| !is_alive(&container));
    until(|| host.processes().is_empty());
    assert_eq!(host.field("tick", "State.Status"), "exited");
    assert_eq!(host.field("tick", "State.ExitCode"), "137");
    assert!(host.field("tick", "State.Error").contains("keeper"));
    let log = host.ok(&["logs", "tick"]);
    for (number, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {}", number + 1));
    }
    assert!(log.lines().count() >= 3);
    assert_eq!(host.ok(&["wait", "tick"]), "137");
    // It is a container like others.
    host.ok(&["start", "tick"]);
    until(|| host.ok(&["logs", "tick"]).matches("line 1\n").count() == 2);
    host.ok(&["rm", "-f", "tick"]);
    host.assert_nothing_left();
}

#[test]
fn the_next_command_does_what_a_killed_guardian_cannot() {
    let Some(host) = host() else { return };
    let (keeper, container) = ticking(&host, &[]);
    kill(&parent(&keeper));
    kill(&keeper);
    until(|| !is_alive(&keeper));
    assert!(host.ok(&["ps", "-a"]).contains("Exited (137)"));
    assert!(!is_alive(&container));
    host.ok(&["rm", "tick"]);
    host.assert_nothing_left();
}

#[test]
fn a_killed_guardian_is_no_loss() {
    let Some(host) = host() else { return };
    let (keeper, _) = ticking(&host, &[]);
    kill(&parent(&keeper));
    thread::sleep(Duration::from_millis(50));
    assert_eq!(host.field("tick", "State.Running"), "true");
    host.ok(&["stop", "-t", "0", "tick"]);
    host.ok(&["rm", "tick"]);
    host.assert_nothing_left();
}

#[test]
fn a_container_that_is_to_go_with_its_end_goes_with_its_keeper() {
    let Some(host) = host() else { return };
    let (keeper, _) = ticking(&host, &["--rm"]);
    kill(&keeper);
    until(|| host.ok(&["ps", "-aq"]).is_empty());
    host.assert_nothing_left();
}

#[test]
fn a_killed_command_leaves_its_container_running() {
    let Some(host) = host() else { return };
    let mut command = host.command(&["run", "--name", "tick", "busybox", "sh", "-c", TICK]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    until(|| host.run(&["logs", "tick"]).stdout.len() > 30);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = host.ok(&["logs", "tick"]).lines().count();
    until(|| host.ok(&["logs", "tick"]).lines().count() > before + 3);
    assert!(host.ok(&["ps"]).contains("tick"));
    host.ok(&["rm", "-f", "tick"]);
    host.assert_nothing_left();
}

#[test]
fn whoever_is_killed_during_a_start_leaves_nothing_half_made() {
    let Some(host) = host() else { return };
    for delay in [0, 2, 5, 10, 20, 40, 80] {
        let mut child = host.command(&["run", "--rm", "busybox", "sleep", "0.2"]).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    until(|| {
        let left = host.ok(&["ps", "-a"]);
        left.lines().count() == 1
    });
    host.assert_nothing_left();
}

#[test]
fn a_killed_keeper_during_a_start_is_told() {
    let Some(host) = host() else { return };
    for _ in 0..5 {
        let child = host
            .command(&["run", "--rm", "busybox", "sleep", "1000"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let own = child.id();
        let keeper = loop {
            let found = host.processes().into_iter().find(|pid| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                *pid != own && text(&words).contains("--keep\0")
            });
            if let Some(found) = found {
                break found;
            }
        };
        kill(&keeper.to_string());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(text(&output.stderr).contains("keeper"), "{output:?}");
        until(|| host.ok(&["ps", "-aq"]).is_empty());
    }
    host.assert_nothing_left();
}

/// Clock ticks that a process has used.
fn ticks(pid: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_keeper_without_descriptors_lets_clients_wait_and_does_not_spin() {
    let Some(host) = host() else { return };
    let (keeper, _) = ticking(&host, &[]);
    let pid = Pid::from_raw(keeper.parse().unwrap());
    let limit = |wanted: Rlimit| prlimit(pid, Resource::Nofile, wanted).unwrap();
    let open = |pid: &str| -> Vec<(u64, PathBuf)> {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| {
            let number = fd.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(fd.path()).ok()?))
        })
        .collect()
    };
    let held = open(&keeper);
    let most = held.iter().map(|(number, _)| number + 1).max().unwrap();
    let before = limit(Rlimit { current: Some(most), ..getrlimit(Resource::Nofile) });
    // One for each number that is free, and one more.
    let clients: Vec<_> = (held.len()..=usize::try_from(most).unwrap())
        .map(|_| host.command(&["wait", "tick"]).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for client in &clients {
        let connected = || {
            let files = open(&client.id().to_string());
            files.iter().any(|(_, file)| file.to_string_lossy().starts_with("socket:"))
        };
        until(connected);
    }
    until(|| open(&keeper).len() as u64 == most);
    let used = ticks(&keeper);
    thread::sleep(Duration::from_secs(1));
    let used = ticks(&keeper) - used;
    assert!(used < 30, "{used} ticks in a second");
    limit(before);
    // What a keeper has to do at the end it can do again, and it has not forgotten who waits.
    host.ok(&["kill", "tick"]);
    for client in clients {
        let waited = client.wait_with_output().unwrap();
        assert_eq!(text(&waited.stdout).trim(), "137", "{waited:?}");
    }
    host.ok(&["rm", "tick"]);
    host.assert_nothing_left();
}
