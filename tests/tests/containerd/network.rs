//! Network namespaces as network plugins leave them when something went wrong: gone, without an address, with an interface that is down or goes
//! while the container runs.

use bulkhead_tests::harness::{Namespace, containerd::Containerd, oci::Oci};

isolations!(what_is_wrong_with_a_network);

const LOOK: &str = "ip -o link; ip -o address; echo that is all; exec sleep 100000";

fn what_is_wrong_with_a_network(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let file = oci.path("look.log");
    let run = |id: &str, path: &str| {
        std::fs::remove_file(&file).ok();
        let (network, log) = (format!("network:{path}"), format!("file://{}", file.display()));
        let options = ["--detach", "--with-ns", &network, "--log-uri", &log];
        oci.run_command(containerd.run_command(&options, id, &["sh", "-c", LOOK]))
    };
    let look = |id: &str, namespace: &Namespace| {
        let outcome = run(id, &namespace.path());
        assert!(outcome.status.success(), "{outcome}\n{}", containerd.logged());
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        oci.wait("what it sees", || read().contains("that is all"));
        read()
    };
    let clean = |namespace: &Namespace| {
        let links = namespace.text("ip -details link show");
        assert!(!links.contains("bulkhead"), "{links}");
        let disciplines = namespace.text("tc qdisc show");
        assert!(!disciplines.contains("ingress"), "{disciplines}");
    };
    // Without an address, and down.
    let [namespace, _far] = Namespace::pair("ip link set eth0 up");
    let seen = look("bare", &namespace);
    assert!(seen.contains("eth0") && !seen.contains("inet 10."), "{seen}");
    containerd.remove("bare");
    clean(&namespace);
    let [namespace, _far] = Namespace::pair("ip address add 10.92.9.5/24 dev eth0");
    let seen = look("down", &namespace);
    let link = seen.lines().find(|line| line.contains(": eth0") && line.contains("mtu")).unwrap();
    assert!(!link.contains(",UP"), "{seen}");
    assert!(seen.contains("inet 10.92.9.5/24"), "{seen}");
    // The interface goes while it runs; in a microVM, a cable is pulled.
    namespace.text("ip link delete eth0");
    containerd.exec("after", "down", "exit 4").assert_code(4);
    containerd.remove("down");
    clean(&namespace);
    // Its keeper goes while it runs: nobody can reach the namespace by its path any more.
    let [namespace, _far] =
        Namespace::pair("ip address add 10.92.9.6/24 dev eth0; ip link set eth0 up");
    let path = namespace.path();
    assert!(look("kept", &namespace).contains("inet 10.92.9.6/24"));
    drop(namespace);
    containerd.exec("after", "kept", "exit 4").assert_code(4);
    containerd.remove("kept");
    // It is gone before it is joined, or never was one.
    for (id, path) in [("gone", path.as_str()), ("never", "/dev/null")] {
        let refused = run(id, path);
        assert!(!refused.status.success(), "{refused}");
        let error = refused.error_text();
        assert!(error.contains(path) || !oci.is_bulkhead(), "{refused}");
        assert_eq!(error.lines().count(), 1, "{refused}");
        assert!(containerd.task(id).is_none());
        containerd.text(&["container", "rm", id]);
    }
}
