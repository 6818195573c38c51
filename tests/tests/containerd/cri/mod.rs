//! Pods through containerd's CRI plugin, as the kubelet makes them: a sandbox, containers that join it, and their ends.

mod channels;
mod client;
mod messages;
mod pod;
mod streams;
mod users;

use bulkhead_tests::{
    harness::{Registry, oci::Oci},
    image::{Compression, Entry, Layer},
};
use messages::{Empty, ImageSpec, Listed, ListedStats, PullImage};
use pod::{Cri, EXITED, Pod};

isolations!(a_pod_lives, a_pod_dies);

/// Two containers of a pod share what they should and nothing else, are limited, restarted, asked and stopped.
fn a_pod_lives(oci: &Oci) {
    let cri = Cri::new(oci);
    let pod = cri.run_pod("the-pod");
    assert!(pod.ip().starts_with("10."), "{}", pod.ip());
    let one = pod.start_attachable("one", streams::HEARS, false);
    let two = pod.start_attachable("two", &streams::looks(), true);
    pod.exec(&one, "until [ -e /ready ]; do sleep 0.1; done");
    assert_eq!(pod.exec(&one, "hostname"), "the-pod\n");
    assert_eq!(
        pod.exec(&two, "hostname; echo shared > /dev/shm/x; echo mine > /file"),
        "the-pod\n"
    );
    assert_eq!(pod.exec(&one, "cat /dev/shm/x; ls /file 2>/dev/null; true"), "shared\n");
    let listens = "(echo through | nc -l -p 8080 > /dev/null 2>&1 &)";
    pod.exec(&two, &format!("{listens}; {}; sleep 0", streams::ECHO));
    let asks = "until nc 127.0.0.1 8080 < /dev/null 2>/dev/null; do sleep 0.2; done";
    assert_eq!(pod.exec(&one, asks), "through\n");
    streams::of_a_command(&pod, &one);
    streams::of_containers(&pod, &one, &two);
    streams::to_ports(&pod);
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
    let mut more = vec![pulled_and_run(&cri, &pod)];
    more.extend((0..3).map(|number| pod.start("more", number, "sleep 100000")));
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

/// A container of an image that the plugin pulls from a registry: all of it that containerd does not have comes from there.
fn pulled_and_run(cri: &Cri<'_>, pod: &Pod<'_>) -> String {
    let oci = cri.containerd.oci;
    let registry = Registry::start(&oci.path("registry"));
    let name = registry.name("marked:test");
    let mut image = cri.pause.clone();
    image.config.entrypoint = Vec::new();
    image.layers.push(Layer::new(&[Entry::file("mark", oci.mark())], Compression::Gzip));
    let archive = oci.path("marked.tar");
    image.write_docker_archive("localhost/marked:test", &archive).unwrap();
    // What the plugin knows of, it keeps.
    let containerd = cri.containerd.in_namespace(oci.mark());
    containerd.text(&["image", "import", archive.to_str().unwrap()]);
    containerd.push("localhost/marked:test", &name);
    containerd.text(&["image", "rm", "--sync", &name, "localhost/marked:test"]);
    let pull = PullImage { image: Some(ImageSpec { image: name.clone() }) };
    let _: Empty = cri.client.call("ImageService/PullImage", pull).unwrap();
    assert!(registry.blobs_read("marked") > 0, "{}", registry.logged());
    let pulled = pod.start_image(&name, "pulled", "exec sleep 100000");
    assert_eq!(pod.exec(&pulled, "cat /mark"), oci.mark());
    pulled
}

/// What is wrong is refused and harms nobody; the end of the sandbox is the end of all that is in its microVM.
fn a_pod_dies(oci: &Oci) {
    let cri = Cri::new(oci);
    let refused = cri.try_pod("nobody", "no-such-handler", None).err().unwrap();
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
