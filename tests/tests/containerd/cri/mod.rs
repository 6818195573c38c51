//! Pods through containerd's CRI plugin, as the kubelet makes them: a sandbox, containers that join it, and their ends.

mod client;
mod messages;
mod pod;

use bulkhead_tests::harness::oci::Oci;
use messages::{Empty, Listed, ListedStats};
use pod::{Cri, EXITED};

isolations!(a_pod_lives, a_pod_dies);

/// Two containers of a pod share what they should and nothing else, are limited, restarted, asked and stopped.
fn a_pod_lives(oci: &Oci) {
    let cri = Cri::new(oci);
    let pod = cri.run_pod("the-pod");
    assert!(pod.ip().starts_with("10."), "{}", pod.ip());
    let ends = "echo one here; trap 'exit 3' TERM; touch /ready; while :; do sleep 0.2; done";
    let (one, two) = (pod.start("one", 0, ends), pod.start("two", 0, "exec sleep 100000"));
    pod.exec(&one, "until [ -e /ready ]; do sleep 0.1; done");
    assert_eq!(pod.exec(&one, "hostname"), "the-pod\n");
    assert_eq!(
        pod.exec(&two, "hostname; echo shared > /dev/shm/x; echo mine > /file"),
        "the-pod\n"
    );
    assert_eq!(pod.exec(&one, "cat /dev/shm/x; ls /file 2>/dev/null; true"), "shared\n");
    let listens = "(echo through | nc -l -p 8080 > /dev/null 2>&1 &) ; sleep 0";
    pod.exec(&two, listens);
    let asks = "until nc 127.0.0.1 8080 < /dev/null 2>/dev/null; do sleep 0.2; done";
    assert_eq!(pod.exec(&one, asks), "through\n");
    let processes = pod.exec(&one, "ps");
    assert!(!processes.contains("sleep 100000"), "{processes}");
    let (code, _, error) = pod.run(&one, "echo problem >&2; exit 7");
    assert_eq!((code, error.as_str()), (7, "problem\n"));
    pod.limit(&two, 48 << 20);
    if oci.is_vm() {
        assert_eq!(pod.exec(&two, "cat /sys/fs/cgroup/memory.max"), format!("{}\n", 48 << 20));
    }
    let stats: ListedStats = cri.client.ask("ListContainerStats", Empty {}).unwrap();
    for id in [&one, &two] {
        let found = stats
            .stats
            .iter()
            .find(|stats| stats.attributes.as_ref().is_some_and(|attributes| attributes.id == *id));
        let used = found.and_then(|stats| stats.memory.as_ref()?.working_set_bytes.as_ref());
        assert!(used.is_some_and(|used| used.value > 0), "{stats:?}");
    }
    // More than a pod has disks.
    let more: Vec<_> = (0..4).map(|number| pod.start("more", number, "sleep 100000")).collect();
    for id in &more {
        assert_eq!(pod.exec(id, "echo x > /file; cat /file"), "x\n");
        pod.stop(id, 0);
        pod.remove(id);
    }
    for attempt in 0..6 {
        let again = pod.start("again", attempt, &format!("echo round {attempt}; exit {attempt}"));
        assert_eq!(pod.wait(&again).exit_code, i32::try_from(attempt).unwrap());
        assert!(pod.log("again", attempt).contains(&format!("round {attempt}")));
        pod.remove(&again);
    }
    assert!(pod.log("one", 0).contains("stdout F one here"), "{}", pod.log("one", 0));
    pod.stop(&one, 300);
    assert_eq!(pod.wait(&one).exit_code, 3);
    pod.remove(&one);
    assert_eq!(pod.exec(&two, "cat /file"), "mine\n");
    pod.end();
    for list in ["ListContainers", "ListPodSandbox"] {
        let left: Listed = cri.client.ask(list, Empty {}).unwrap();
        assert!(left.items.is_empty(), "{list}: {left:?}");
    }
}

/// What is wrong is refused and harms nobody; the end of the sandbox is the end of all that is in its microVM.
fn a_pod_dies(oci: &Oci) {
    let cri = Cri::new(oci);
    let refused = cri.try_pod("nobody", "no-such-handler").err().unwrap();
    assert!(refused.message().contains("no-such-handler"), "{refused}");
    let pod = cri.run_pod("mortal");
    let one = pod.start("one", 0, "exec sleep 100000");
    let missing = pod.try_start("missing", 0, &["/no/such/program"]).unwrap_err();
    assert!(missing.message().contains("no such file or directory"), "{missing}");
    assert_eq!(pod.exec(&one, "echo well"), "well\n");
    cri.kill_sandbox(&pod);
    if oci.is_vm() {
        let status = pod.wait(&one);
        assert_eq!((status.state, status.exit_code), (EXITED, 137), "{status:?}");
    } else {
        assert_eq!(pod.exec(&one, "echo well"), "well\n");
    }
    pod.end();
}
