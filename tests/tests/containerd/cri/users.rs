//! Pods with a user namespace (`hostUsers: false`).

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
};

use bulkhead_tests::harness::oci::Oci;

use super::{
    messages::{Empty, Map, Mount, Status, Users},
    pod::{Cri, Pod},
};

isolations!(a_pod_with_users);

/// The first of the ids outside.
const FIRST: u32 = 300_000;

/// Its containers have one user namespace, in which they own their files and what they share.
fn a_pod_with_users(oci: &Oci) {
    let cri = Cri::new(oci);
    let version = cri.containerd.text(&["version"]);
    let old = version.contains("Version:  1.");
    if version.contains("Version:  1.6") {
        eprintln!(
            "SKIPPED: containerd 1.6 gives pods no user namespaces (tests/newer-containerd.sh)"
        );
        return;
    }
    if !old {
        // By this the kubelet knows that the handler may have such pods.
        let status: Status = cri.client.ask("Status", Empty {}).unwrap();
        for name in ["vm-by-path", "host-by-path"] {
            let handler = status.handlers.iter().find(|handler| handler.name == name).unwrap();
            let features = handler.features.clone().unwrap_or_default();
            assert!(features.user_namespaces && features.recursive_read_only_mounts, "{status:?}");
        }
    }
    let map = vec![Map { outside: FIRST, inside: 0, length: 65_536 }];
    let users = Users { mode: 0, uids: map.clone(), gids: map.clone() };
    if old && oci.is_vm() {
        // It sets up the network of such a pod when its sandbox, a microVM, is made.
        let refused = cri.try_pod("users", "vm-by-path", Some(users)).err().unwrap();
        assert!(refused.message().contains("eth0 has come after"), "{refused}");
        return;
    }
    let pod = cri.run_pod_of("users", Some(users));
    let [one, two] = ["one", "two"].map(|name| pod.start(name, 0, "exec sleep 100000"));
    let look = "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; \
        echo mine > /file; stat -c %u:%g /file /bin /etc/hosts; ls /sys/class/net";
    // 1.7 maps no owners of what it mounts from elsewhere.
    let hosts = if old { "65534:65534" } else { "0:0" };
    let expected = format!("0\n0 {FIRST} 65536\n0 {FIRST} 65536\n0:0\n0:0\n{hosts}\neth0\nlo\n");
    for container in [&one, &two] {
        assert_eq!(pod.exec(container, look), expected);
    }
    pod.exec(&one, "echo shared > /dev/shm/x");
    assert_eq!(pod.exec(&two, "cat /dev/shm/x; cat /file; hostname"), "shared\nmine\nusers\n");
    let namespaces = "for name in user net ipc uts; do readlink /proc/self/ns/$name; done";
    assert_eq!(pod.exec(&one, namespaces), pod.exec(&two, namespaces));
    let (listens, asks) = (
        "(echo through | nc -l -p 8080 > /dev/null 2>&1 &)",
        "until nc 127.0.0.1 8080 < /dev/null 2>/dev/null; do sleep 0.2; done",
    );
    pod.exec(&two, listens);
    assert_eq!(pod.exec(&one, asks), "through\n");
    assert_eq!(pod.exec(&one, "echo open > /dev/stdout"), "open\n");
    let again = pod.start("one", 1, "echo again > /dev/stdout; echo problem > /dev/stderr; exit 5");
    assert_eq!(pod.wait(&again).exit_code, 5);
    let log = pod.log("one", 1);
    assert!(log.contains("stdout F again") && log.contains("stderr F problem"), "{log}");
    if !old {
        owns_its_volume(&pod, &oci.path("volume"), map);
    }
    pod.end();
}

/// A directory of the host whose files belong in the container to whom they belong on the host.
fn owns_its_volume(pod: &Pod<'_>, volume: &Path, map: Vec<Map>) {
    fs::create_dir(volume).unwrap();
    fs::write(volume.join("old"), "old").unwrap();
    chown(volume.join("old"), Some(7), Some(8)).unwrap();
    let mount = Mount {
        container_path: "/volume".into(),
        host_path: volume.display().to_string(),
        uids: map.clone(),
        gids: map,
    };
    let script =
        "cd /volume; stat -c %u:%g . old; echo new > new; chown 9:10 new; exec sleep 100000";
    let with = pod.start_with("with", script, mount);
    pod.until("the container's words", || pod.log("with", 0).lines().count() > 1);
    let log = pod.log("with", 0);
    assert!(log.contains("F 0:0\n") && log.contains("F 7:8\n"), "{log}");
    assert_eq!(pod.exec(&with, "stat -c %u:%g /volume/new; rm /volume/old"), "9:10\n");
    let made = fs::metadata(volume.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid(), volume.join("old").exists()), (9, 10, false));
}
