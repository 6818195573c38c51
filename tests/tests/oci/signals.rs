//! Signals, `kill --all`, the end of the first process, zombies, pause and resume.

use std::{fs, thread, time::Duration};

use bulkhead_tests::harness::oci::Oci;

isolations!(host: signals, all_processes, the_first_ends_everything, pause_loses_nothing; vm: signals, all_processes, the_first_ends_everything, pause_loses_nothing);

/// By name with and without SIG, by number; TERM by default; ignored ones.
fn signals(oci: &Oci) {
    let mut bundle = oci.bundle("signals");
    bundle.sh("for s in HUP INT USR1 USR2 WINCH ALRM CONT; do trap \"echo got $s\" $s; done
         trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    oci.create("signals", &bundle);
    let pid = oci.pid("signals");
    oci.run(&["start", "signals"]).assert_code(0);
    oci.wait_for_output("signals", "ready");
    for (given, name) in [
        ("HUP", "HUP"),
        ("SIGINT", "INT"),
        ("10", "USR1"),
        ("usr2", "USR2"),
        ("sigwinch", "WINCH"),
        ("14", "ALRM"),
        ("SIGCONT", "CONT"),
    ] {
        oci.run(&["kill", "signals", given]).assert_clean();
        oci.wait_for_output("signals", &format!("got {name}\n"));
    }
    oci.run(&["kill", "signals"]).assert_clean();
    assert_eq!(oci.exit_code(pid), 3);
    assert!(oci.output("signals").ends_with("got TERM\n"), "{}", oci.output("signals"));
    oci.wait_for_status("signals", "stopped");
    oci.run(&["delete", "signals"]).assert_code(0);
}

/// `kill --all` reaches every process, those that an exec started too.
fn all_processes(oci: &Oci) {
    let mut bundle = oci.bundle("all");
    bundle.sh("trap 'echo init got it' USR1; for i in 1 2 3; do sh -c 'trap \"echo child got it; exit\" USR1; echo ready; while :; do sleep 0.1; done' & done; while :; do sleep 0.1; done");
    oci.create_and_start("all", &bundle);
    oci.wait("three children", || oci.output("all").matches("ready").count() == 3);
    let mut exec = oci.start(&[
        "exec",
        "all",
        "sh",
        "-c",
        "trap 'echo exec got it; exit 4' USR1; echo ready; while :; do sleep 0.1; done",
    ]);
    exec.wait_for("ready");
    // A plain kill is the first process's alone.
    oci.run(&["kill", "all", "USR1"]).assert_clean();
    oci.wait_for_output("all", "init got it");
    assert!(!oci.output("all").contains("child"), "{}", oci.output("all"));
    oci.run(&["kill", "--all", "all", "USR1"]).assert_clean();
    // What the shells' `sleep 0.1` children do with it ends them only.
    exec.wait().assert_code(4);
    oci.wait("all children", || oci.output("all").matches("child got it").count() == 3);
    oci.run(&["kill", "-a", "all", "KILL"]).assert_clean();
    oci.wait_for_status("all", "stopped");
    oci.run(&["delete", "all"]).assert_code(0);
}

/// With the first process everything ends, and what its processes leave is reaped while it runs.
fn the_first_ends_everything(oci: &Oci) {
    let mut bundle = oci.bundle("first");
    // `setsid` puts them out of the shell's reach; the orphans of `sh -c` become the first's.
    bundle.sh(
        "setsid sleep 1000 & setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & (sh -c 'true & true & exit') ; sleep 0.5
         echo zombies $(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l)
         while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 11",
    );
    oci.create("first", &bundle);
    let pid = oci.pid("first");
    oci.run(&["start", "first"]).assert_code(0);
    oci.wait_for_output("first", "zombies ");
    let exec = oci.start(&["exec", "first", "sleep", "1000"]);
    let lines = || oci.run(&["ps", "first"]).text().lines().count();
    oci.wait("a table of four", || lines() >= 5);
    oci.run(&["exec", "first", "touch", "/tmp/end"]).assert_code(0);
    assert_eq!(oci.exit_code(pid), 11);
    exec.wait().assert_code(137);
    oci.wait_for_status("first", "stopped");
    oci.run(&["delete", "first"]).assert_code(0);
}

/// Paused, nothing runs; resumed, it goes on where it was, and signals and bytes that came in between are there.
fn pause_loses_nothing(oci: &Oci) {
    let mut bundle = oci.bundle("pause");
    bundle.sh(
        "trap 'echo signalled' USR1; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo $i; sleep 0.05; [ -e /tmp/end ] && break; done; echo last $i",
    );
    oci.create_and_start("pause", &bundle);
    oci.wait_for_output("pause", "\n3\n");
    let mut exec = oci.start(&["exec", "pause", "cat"]);
    exec.write(b"before\n");
    exec.wait_for("before\n");
    for _ in 0..if oci.is_vm() { 2 } else { 5 } {
        oci.run(&["pause", "pause"]).assert_clean();
        assert_eq!(oci.status("pause"), "paused");
        // What was on its way is out.
        thread::sleep(Duration::from_millis(300));
        let before = oci.output("pause");
        exec.write(b"while paused\n");
        oci.run(&["kill", "pause", "USR1"]);
        thread::sleep(Duration::from_millis(700));
        assert_eq!(oci.output("pause"), before, "it writes while it is paused");
        let signals = before.matches("signalled").count();
        oci.run(&["resume", "pause"]).assert_clean();
        assert_eq!(oci.status("pause"), "running");
        exec.wait_for("while paused\n");
        oci.wait("the signal", || oci.output("pause").matches("signalled").count() > signals);
    }
    oci.run(&["exec", "pause", "touch", "/tmp/end"]).assert_code(0);
    oci.wait_for_output("pause", "last ");
    let text = oci.output("pause");
    let numbers: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(
        numbers.iter().copied().eq(1..=u32::try_from(numbers.len()).unwrap()),
        "each number once, in order"
    );
    exec.close_stdin();
    drop(exec.wait());
    oci.wait_for_status("pause", "stopped");
    oci.run(&["delete", "pause"]).assert_code(0);
    assert!(fs::metadata(oci.path("pause")).is_ok(), "the bundle is the caller's");
}
