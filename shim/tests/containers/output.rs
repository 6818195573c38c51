//! What a container writes: kept, rotated, followed, cut to what is asked for.

use std::process::Stdio;

use crate::host::{host, text, until};

#[test]
fn both_streams_are_kept_apart_and_with_their_times() {
    let Some(host) = host() else { return };
    let script = "echo out 1; echo err 1 >&2; printf 'no newline'";
    host.ok(&["run", "--name", "c1", "busybox", "sh", "-c", script]);
    let output = host.run(&["logs", "c1"]);
    assert_eq!(text(&output.stdout), "out 1\nno newline");
    assert_eq!(text(&output.stderr), "err 1\n");
    let stamped = host.ok(&["logs", "-t", "c1"]);
    for line in stamped.lines() {
        let (time, _) = line.split_once(' ').unwrap();
        assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
    }
    assert_eq!(host.ok(&["logs", "--until", "10m", "c1"]), "");
    assert_eq!(host.ok(&["logs", "--since", "10m", "c1"]), "out 1\nno newline");
    host.refused(&["logs", "--since", "never", "c1"], 1, "--since never");
    host.refused(&["logs", "nope"], 1, "No such container: nope");
    host.ok(&["rm", "c1"]);
}

#[test]
fn bytes_come_back_as_they_were_written() {
    let Some(host) = host() else { return };
    let script = "head -c 300000 /dev/urandom | tee /sum | cat; md5sum < /sum >&2";
    let direct = host.run(&["run", "--name", "c1", "busybox", "sh", "-c", script]);
    assert_eq!(direct.stdout.len(), 300_000);
    let kept = host.run(&["logs", "c1"]);
    assert!(kept.stdout == direct.stdout && kept.stderr == direct.stderr);
    host.ok(&["rm", "c1"]);
}

#[test]
fn logs_are_rotated_and_followed_to_the_end() {
    let Some(host) = host() else { return };
    let script =
        "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done; sleep 0.5; echo last";
    let limits = ["--log-opt", "max-size=20k", "--log-opt", "max-file=50"];
    let words = [&["run", "-d", "--name", "c1"], &limits[..], &["busybox", "sh", "-c", script]];
    host.ok(&words.concat());
    let followed = host.ok(&["logs", "-f", "c1"]);
    let want: Vec<String> =
        (1..=2000).map(|i| format!("line {i}")).chain(["last".into()]).collect();
    assert_eq!(followed.lines().collect::<Vec<_>>(), want);
    assert_eq!(host.ok(&["logs", "--tail", "3", "c1"]), "line 1999\nline 2000\nlast");
    assert_eq!(host.ok(&["logs", "-n", "0", "c1"]), "");
    let directory = host.path("data/containers").join(host.field("c1", "Id"));
    let sizes: Vec<u64> = std::fs::read_dir(directory)
        .unwrap()
        .map(Result::unwrap)
        .filter(|item| item.file_name().to_str().unwrap().starts_with("container.log"))
        .map(|item| item.metadata().unwrap().len())
        .collect();
    assert!(sizes.len() > 5 && sizes.iter().all(|size| *size <= 20 << 10), "{sizes:?}");
    // Of a container that writes much, the end is kept.
    let few = ["--log-opt", "max-size=2k", "--log-opt", "max-file=2"];
    host.ok(&[&["run", "--name", "d1"], &few[..], &["busybox", "seq", "5000"]].concat());
    let kept = host.ok(&["logs", "d1"]);
    assert!(kept.ends_with("\n5000") && kept.lines().count() < 100, "{kept}");
    host.ok(&["rm", "c1", "d1"]);
}

#[test]
fn a_tail_is_followed_from_where_it_ends() {
    let Some(host) = host() else { return };
    let script = "seq 100; while [ ! -e /go ]; do sleep 0.05; done; echo after";
    host.ok(&["run", "-d", "--name", "c1", "busybox", "sh", "-c", script]);
    host.wait_for_log("c1", "99\n100");
    let mut command = host.command(&["logs", "-f", "--tail", "2", "c1"]);
    let follower = command.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    host.ok(&["exec", "c1", "touch", "/go"]);
    let output = follower.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "99\n100\nafter\n");
    // Followed when it has ended already, it is shown and no more.
    assert_eq!(host.ok(&["logs", "-f", "-n", "1", "c1"]), "after");
    host.ok(&["rm", "c1"]);
}

#[test]
fn a_follower_of_a_removed_container_ends() {
    let Some(host) = host() else { return };
    host.ok(&["run", "-d", "--name", "c1", "busybox", "sh", "-c", "echo here; sleep 1000"]);
    let mut command = host.command(&["logs", "-f", "c1"]);
    let follower = command.stdout(Stdio::piped()).spawn().unwrap();
    host.wait_for_log("c1", "here");
    host.ok(&["rm", "-f", "c1"]);
    let output = follower.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "here\n");
    host.assert_nothing_left();
}

#[test]
fn a_full_disk_costs_the_log_and_not_the_container() {
    let Some(host) = host() else { return };
    // The container's directory on a file system of 1 MiB, in a mount namespace of the keeper's ancestors.
    let inner = host.command(&[
        "run",
        "--name",
        "c1",
        "--log-opt",
        "max-size=100m",
        "busybox",
        "sh",
        "-c",
        "head -c 3000000 /dev/zero | tr '\\0' x | fold -w 1000; echo; echo done >&2; exit 5",
    ]);
    let small = "mkdir -p \"$BULKHEAD_DATA/containers\"; \
                 mount -t tmpfs -o size=1m none \"$BULKHEAD_DATA/containers\"; \
                 \"$@\" >/dev/null; code=$?; \"$1\" logs c1 2>&1 | tail -c 200; \"$1\" inspect -f '{{json .State.Warnings}}' c1; \
                 \"$1\" rm c1 >/dev/null; exit $code";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", small, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let warnings = text(&output.stderr);
    assert_eq!(warnings.matches("not kept").count(), 1, "{warnings}");
    assert!(text(&output.stdout).contains("not kept"), "{output:?}");
    until(|| host.processes().is_empty());
}
