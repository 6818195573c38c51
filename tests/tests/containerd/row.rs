//! Many containers, one after the other and several at a time, without anything that stays.

use std::{env, fs, path::PathBuf, thread};

use bulkhead_tests::harness::{containerd::Containerd, oci::Oci};

isolations!(nothing_stays);

/// How many; `BULKHEAD_TEST_CONTAINERS=100` for a longer run.
fn wanted(oci: &Oci) -> usize {
    let usual = if oci.is_vm() { 4 } else { 20 };
    env::var("BULKHEAD_TEST_CONTAINERS").ok().map_or(usual, |text| text.parse().unwrap())
}

/// Runs them in rows that work at the same time; each is started, joined and removed. Returns where their shims listened.
fn rows(containerd: &Containerd<'_>, rows: usize, each: usize) -> Vec<PathBuf> {
    let row = |row: usize| -> Vec<PathBuf> {
        let one = |number: usize| {
            let id = format!("r{row}-{number}");
            containerd.detached(&["--null-io"], &id, "sleep 1000");
            containerd.exec("one", &id, "exit 4").assert_code(4);
            let socket = containerd.socket(&id);
            containerd.remove(&id);
            socket
        };
        (0..each).map(one).collect()
    };
    thread::scope(|scope| {
        let row = &row;
        let started: Vec<_> = (0..rows).map(|number| scope.spawn(move || row(number))).collect();
        started.into_iter().flat_map(|row| row.join().unwrap()).collect()
    })
}

fn nothing_stays(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let mut sockets = rows(&containerd, 1, wanted(oci));
    let at_once = if oci.is_vm() { 2 } else { 8 };
    sockets.extend(rows(&containerd, at_once, wanted(oci).div_ceil(at_once * 2)));
    oci.wait("the last shims' ends", || shims(oci) == 0);
    let left: Vec<_> = sockets.iter().filter(|socket| socket.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The test's shims that run.
fn shims(oci: &Oci) -> usize {
    let is_shim = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|words| words.windows(15).any(|part| part == b"containerd-shim"))
    };
    oci.processes().iter().filter(|pid| is_shim(pid)).count()
}
