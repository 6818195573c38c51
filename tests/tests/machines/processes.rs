//! Many processes, several processors, and too much memory.

use bulkhead_tests::harness::kvm_missing;

use super::host_with_busybox;

#[test]
fn fifty_processes_keep_their_vector_registers() {
    if kvm_missing() {
        return;
    }
    let Some(host) = host_with_busybox() else { return };
    let outcome = host.boot(&["run", "--rm", "busybox", "/probe", "vectors", "50", "5"]).wait();
    outcome.assert_clean();
    let line = outcome.value("vectors");
    assert!(line.ends_with("processes 50 good 50"), "{line}");
    // What the host's processor has, the guest's programs use.
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let kind = if has("avx512f") {
        "avx512"
    } else if has("avx") {
        "avx"
    } else {
        "sse"
    };
    assert!(line.starts_with(kind), "{line}, but the host has {kind}");
    host.assert_nothing_left();
}

#[test]
fn two_processors_are_there_and_both_run() {
    let Some(host) = host_with_busybox() else { return };
    let script = "echo nproc $(nproc); /probe both-cpus; /probe vectors 6 5";
    let outcome = host.boot(&["run", "--rm", "--cpus", "2", "busybox", "sh", "-c", script]).wait();
    outcome.assert_clean();
    assert_eq!(outcome.value("nproc"), "2");
    assert_eq!(outcome.value("both-cpus"), "4000");
    assert!(outcome.value("vectors").ends_with("processes 6 good 6"));
    host.assert_nothing_left();
}

#[test]
fn a_container_out_of_memory_is_killed_and_says_so() {
    let Some(host) = host_with_busybox() else { return };
    let outcome =
        host.boot(&["run", "--rm", "--memory", "96m", "busybox", "/probe", "hog", "400"]).wait();
    outcome.assert_code(137);
    assert!(!outcome.text().contains("took all"), "{outcome}");
    assert!(outcome.text().contains("took 32"), "{outcome}");
    let error = outcome.error_text();
    assert_eq!(error.lines().count(), 1, "{outcome}");
    assert!(error.contains("out of memory") && error.contains("96m"), "{outcome}");
    host.assert_nothing_left();
}

#[test]
fn a_child_out_of_memory_is_killed_and_the_program_lives() {
    let Some(host) = host_with_busybox() else { return };
    let script = "/probe hog 400 >/dev/null; echo child $?; echo alive";
    let outcome =
        host.boot(&["run", "--rm", "--memory", "96m", "busybox", "sh", "-c", script]).wait();
    outcome.assert_code(0);
    assert_eq!(outcome.value("child"), "137");
    assert!(outcome.text().contains("alive"), "{outcome}");
    host.assert_nothing_left();
}
