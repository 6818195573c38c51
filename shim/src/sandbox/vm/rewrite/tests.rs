//! Tables: what a property of the host's specification becomes.

use std::{collections::BTreeMap, io};

use bulkhead_container::spec::IdMapping;
use serde_json::json;

use super::*;

/// A host with a few things.
struct Things(BTreeMap<&'static str, Kind>);

impl Host for Things {
    fn look(&self, path: &Path) -> io::Result<Found> {
        let kind = self.0.get(path.to_str().unwrap()).cloned();
        kind.map(|kind| Found { path: path.to_owned(), kind })
            .ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    fn has(&self, root: &Path, path: &str) -> bool {
        self.0.contains_key(root.join(path.trim_start_matches('/')).to_str().unwrap())
    }
}

fn host() -> Things {
    let directory = Kind::Directory { tmpfs: None };
    let device = |block, major, minor| Kind::Device { block, major, minor };
    Things(BTreeMap::from([
        ("/b/rootfs", directory.clone()),
        ("/b/rootfs/proc", directory.clone()),
        ("/b/rootfs/dev", directory.clone()),
        ("/b/data", directory.clone()),
        ("/srv", directory),
        ("/etc/hosts", Kind::File),
        ("/shm", Kind::Directory { tmpfs: Some(65536) }),
        ("/dev/null", device(false, 1, 3)),
        ("/dev/kvm", device(false, 10, 232)),
        ("/dev/sda", device(true, 8, 0)),
        ("/dev/block1_3", device(true, 1, 3)),
        ("/run/docker.sock", Kind::Socket),
        ("/run/fifo", Kind::Fifo),
        ("/sys", Kind::Kernel("sysfs")),
        ("/proc", Kind::Kernel("proc")),
        ("/proc/1", Kind::Kernel("proc")),
        ("/sys/fs/cgroup", Kind::Kernel("cgroup2")),
    ]))
}

fn run(spec: &Value) -> Result<Guest, RewriteError> {
    rewrite(spec, Path::new("/b"), Some(Path::new("/b/rootfs")), Role::Alone, &host())
}

fn good(spec: &Value) -> Guest {
    run(spec).unwrap()
}

fn one_mount(mount: Value) -> Result<(Value, Vec<ShareEntry>), RewriteError> {
    let guest = run(&json!({ "mounts": [mount] }))?;
    let binds = guest.shares.into_iter().find(|share| share.tag == BINDS_TAG);
    Ok((guest.spec["mounts"][0].clone(), binds.map(|share| share.entries).unwrap_or_default()))
}

#[test]
fn the_root_is_a_share_of_its_own() {
    let guest = good(&json!({ "root": { "path": "rootfs" } }));
    assert_eq!(guest.shares.len(), 1);
    assert_eq!(guest.shares[0].tag, "root");
    assert_eq!(guest.shares[0].cache, Cache::Auto);
    let entry = &guest.shares[0].entries[0];
    assert_eq!((entry.name.as_str(), entry.path.to_str()), ("rootfs", Some("/b/rootfs")));
    let none = rewrite(&json!({}), Path::new("/b"), None, Role::Alone, &host()).unwrap();
    assert!(none.shares.is_empty());
    let missing =
        rewrite(&json!({}), Path::new("/b"), Some(Path::new("/b/no")), Role::Alone, &host());
    assert!(missing.unwrap_err().to_string().contains("no such file or directory"));
    let file =
        rewrite(&json!({}), Path::new("/b"), Some(Path::new("/etc/hosts")), Role::Alone, &host());
    assert!(file.unwrap_err().to_string().contains("no directory"));
}

#[test]
fn the_host_keeps_a_root_read_only_that_needs_no_mount_points() {
    let shared = |readonly: bool, mounts: Value| {
        let spec = json!({ "root": { "path": "rootfs", "readonly": readonly }, "mounts": mounts });
        good(&spec).shares[0].entries[0].read_only
    };
    let dev = json!({ "destination": "/dev", "type": "tmpfs" });
    let pts = json!({ "destination": "/dev/pts", "type": "devpts" });
    let proc = json!({ "destination": "/proc/", "type": "proc" });
    let new = json!({ "destination": "/new", "type": "tmpfs" });
    assert!(shared(true, json!([proc, dev, pts])));
    assert!(!shared(false, json!([proc, dev, pts])));
    assert!(!shared(true, json!([proc, dev, new])), "a mount point is to be made");
    assert!(!shared(true, json!([proc])), "device nodes are to be made");
}

#[test]
fn binds_become_entries_of_a_share() {
    for (source, path, options, read_only) in [
        ("/srv", "/srv", json!(["bind"]), false),
        ("/srv", "/srv", json!(["rbind", "ro"]), true),
        ("/srv", "/srv", json!(["rbind", "rro", "rprivate"]), true),
        ("/srv", "/srv", json!(["ro", "bind", "rw"]), false),
        ("data", "/b/data", json!(["bind"]), false),
        ("/etc/hosts", "/etc/hosts", json!(["rbind", "rslave", "ro"]), true),
    ] {
        let mount =
            json!({ "destination": "/x", "type": "bind", "source": source, "options": options });
        let (guest, entries) = one_mount(mount).unwrap();
        assert_eq!(guest["source"], "/run/bulkhead/shares/binds/0", "{source} {options}");
        assert_eq!(guest["options"], options);
        let entry = ShareEntry { name: "0".into(), path: path.into(), read_only, sealed: false };
        assert_eq!(entries, [entry], "{source} {options}");
    }
    // The option alone makes a bind mount, whatever the type says.
    let (_, entries) = one_mount(
        json!({ "destination": "/x", "type": "none", "source": "/srv", "options": ["rbind"] }),
    )
    .unwrap();
    assert_eq!(entries.len(), 1);
}

#[test]
fn each_bind_has_an_entry_of_its_own() {
    let bind = |to: &str, how: &str| json!({ "destination": to, "type": "bind", "source": "/srv", "options": [how] });
    let guest = good(
        &json!({ "mounts": [bind("/a", "ro"), { "destination": "/t", "type": "tmpfs", "source": "tmpfs" }, bind("/b", "rw")] }),
    );
    let entries = &guest.shares[1].entries;
    assert_eq!(guest.shares[1].cache, Cache::None);
    assert_eq!(entries.iter().map(|entry| entry.read_only).collect::<Vec<_>>(), [true, false]);
    assert_eq!(guest.spec["mounts"][2]["source"], "/run/bulkhead/shares/binds/1");
    assert_eq!(
        guest.spec["mounts"][1],
        json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs" })
    );
}

#[test]
fn shared_memory_of_the_host_is_memory_of_the_guest() {
    for (to, is_memory) in [("/dev/shm", true), ("/dev/shm/", true), ("/shm", false)] {
        let mount = json!({ "destination": to, "type": "bind", "source": "/shm", "options": ["bind", "rprivate"] });
        let (guest, entries) = one_mount(mount).unwrap();
        assert_eq!(entries.is_empty(), is_memory, "{to}");
        if is_memory {
            assert_eq!(guest["type"], "tmpfs");
            assert!(guest["options"].as_array().unwrap().contains(&json!("size=64k")));
        }
    }
}

#[test]
fn devices_that_a_guest_has_are_its_own() {
    let bind = |source: &str| json!({ "destination": "/dev/x", "type": "bind", "source": source, "options": ["bind"] });
    let (guest, entries) = one_mount(bind("/dev/null")).unwrap();
    assert_eq!(guest["source"], "/dev/null");
    assert!(entries.is_empty());
    for (source, word) in [
        ("/dev/kvm", "device of the host"),
        ("/dev/sda", "device of the host"),
        ("/dev/block1_3", "device of the host"),
        ("/run/docker.sock", "socket"),
        ("/run/fifo", "named pipe"),
        ("/proc/1", "host's kernel (proc)"),
        ("/sys/fs/cgroup", "host's kernel (cgroup2)"),
    ] {
        let error = one_mount(bind(source)).unwrap_err().to_string();
        assert!(error.contains("mounts[0].source") && error.contains(word), "{error}");
        assert!(error.contains(source), "{error}");
    }
}

#[test]
fn the_kernels_own_file_systems_are_the_guests() {
    for (source, kind) in [("/sys", "sysfs"), ("/proc", "proc")] {
        let mount = json!({ "destination": source, "type": "bind", "source": source, "options": ["rbind", "nosuid", "ro"] });
        let (guest, entries) = one_mount(mount).unwrap();
        assert_eq!(guest["type"], kind);
        assert_eq!(guest["options"], json!(["nosuid", "ro"]));
        assert!(entries.is_empty());
    }
}

#[test]
fn what_cannot_be_mounted_is_named() {
    let no_source = one_mount(json!({ "destination": "/x", "type": "bind" })).unwrap_err();
    assert!(no_source.to_string().contains("mounts[0].source"), "{no_source}");
    let missing = one_mount(json!({ "destination": "/x", "type": "bind", "source": "/none" }));
    assert_eq!(
        missing.unwrap_err().to_string(),
        r#"error mounting "/none" to rootfs at "/x": stat /none: no such file or directory"#
    );
    let disk = one_mount(json!({ "destination": "/x", "type": "ext4", "source": "/dev/sda" }));
    assert!(disk.unwrap_err().to_string().contains("/dev/sda"));
    let ids = json!({ "destination": "/x", "type": "bind", "source": "/srv", "uidMappings": [] });
    assert!(one_mount(ids).unwrap_err().to_string().contains("uidMappings"));
    for bad in [
        json!(7),
        json!({}),
        json!({ "destination": 7 }),
        json!({ "destination": "/x", "options": "ro" }),
    ] {
        let error = one_mount(bad.clone()).unwrap_err().to_string();
        assert!(error.contains("mounts[0]"), "{bad}: {error}");
    }
}

/// The host maps the owners of what a container of a pod mounts; the guest knows nothing of it.
#[test]
fn owners_are_mapped_by_the_host() {
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let mount = json!({ "destination": "/x", "type": "bind", "source": "/srv", "options": ["rbind", "ridmap"],
        "uidMappings": map, "gidMappings": map });
    let run = |mount: &Value, role| {
        let spec = json!({ "mounts": [mount] });
        rewrite(&spec, Path::new("/b"), None, role, &host())
    };
    let guest = run(&mount, Role::Member("m")).unwrap();
    let line = IdMapping { container_id: 0, host_id: 1000, size: 10 };
    let owners = Owners { uids: vec![line], gids: vec![line], whole: true };
    assert_eq!(guest.owners, BTreeMap::from([("m.0".to_owned(), owners)]));
    let mount_of_guest = &guest.spec["mounts"][0];
    assert_eq!(mount_of_guest["options"], json!(["rbind"]));
    assert!(mount_of_guest.get("uidMappings").is_none(), "{mount_of_guest}");
    let refused = run(&mount, Role::Sandbox).unwrap_err().to_string();
    assert!(refused.contains("mounts[0].uidMappings"), "{refused}");
    let mut bad = mount;
    bad["gidMappings"][0]["size"] = json!(-1);
    let refused = run(&bad, Role::Member("m")).unwrap_err().to_string();
    assert!(refused.contains("mounts[0].gidMappings"), "{refused}");
}

#[test]
fn the_network_is_the_hosts_and_all_else_the_guests() {
    let run = |namespaces: Value| run(&json!({ "linux": { "namespaces": namespaces } }));
    for (namespaces, network) in [
        (json!([]), Network::Host),
        (json!([{ "type": "network" }]), Network::New),
        (json!([{ "type": "network", "path": "" }]), Network::New),
        (
            json!([{ "type": "network", "path": "/run/netns/x" }]),
            Network::Path("/run/netns/x".into()),
        ),
    ] {
        let guest = run(namespaces).unwrap();
        assert_eq!(guest.network, network);
        assert_eq!(guest.spec["linux"]["namespaces"], json!([]));
    }
    let own = json!([{ "type": "pid" }, { "type": "time" }]);
    assert_eq!(run(own.clone()).unwrap().spec["linux"]["namespaces"], own);
    // Who is root of a user namespace can mount sysfs only with a network of its own.
    let user = run(json!([{ "type": "user" }])).unwrap().spec["linux"]["namespaces"].clone();
    assert_eq!(user, json!([{ "type": "user" }, { "type": "network" }]));
    for kind in ["pid", "ipc", "uts", "mount", "user", "cgroup", "time"] {
        let error = run(json!([{ "type": "network" }, { "type": kind, "path": "/proc/1/ns/x" }]));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("linux.namespaces[1].path") && error.contains(kind), "{error}");
    }
    let twice = run(json!([{ "type": "network" }, { "type": "network" }])).unwrap_err();
    assert!(twice.to_string().contains("linux.namespaces[1]"), "{twice}");
}

#[test]
fn devices_are_the_guests() {
    let device = |path: &str, kind: &str, major: u32, minor: u32| json!({ "path": path, "type": kind, "major": major, "minor": minor });
    let all = json!([
        device("/dev/fuse", "c", 10, 229),
        device("/dev/sda", "b", 8, 0),
        device("/dev/mine", "c", 1, 3),
        device("/dev/kvm", "c", 10, 232),
        { "path": "/dev/fifo", "type": "p" },
    ]);
    let guest = good(&json!({ "linux": { "devices": all } }));
    let kept: Vec<&str> = guest.spec["linux"]["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["path"].as_str().unwrap())
        .collect();
    assert_eq!(kept, ["/dev/fuse", "/dev/mine", "/dev/fifo"]);
    assert_eq!(guest.notes.len(), 2);
    assert!(guest.notes[0].contains("/dev/sda"), "{:?}", guest.notes);
}

#[test]
fn limits_stay_except_those_of_the_host() {
    let guest = good(&json!({ "linux": { "cgroupsPath": "/x", "resources": {
        "memory": { "limit": 1, "swap": 2, "checkBeforeUpdate": true },
        "cpu": { "quota": 5, "cpus": "0-1", "mems": "" },
        "pids": { "limit": 9 },
        "blockIO": { "weight": 10, "throttleReadBpsDevice": [{ "major": 8 }] },
        "network": { "classID": 1 },
        "unified": { "memory.high": "1" },
    } } }));
    assert_eq!(
        guest.spec["linux"],
        json!({ "namespaces": [], "resources": {
            "memory": { "limit": 1, "checkBeforeUpdate": true },
            "cpu": { "quota": 5 },
            "pids": { "limit": 9 },
            "blockIO": { "weight": 10 },
            "unified": { "memory.high": "1" },
        } })
    );
    assert_eq!(guest.notes.len(), 4, "{:?}", guest.notes);
}

#[test]
fn what_is_only_for_the_host_stays_there() {
    let guest = good(&json!({
        "annotations": { "a": "b" },
        "hooks": { "prestart": [{}], "createRuntime": [{}], "startContainer": [{ "path": "/x" }], "poststop": [{}] },
        "process": { "args": ["x"], "apparmorProfile": "p", "selinuxLabel": "" },
        "linux": { "mountLabel": "l", "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" } },
        "unknown": 1,
    }));
    assert_eq!(guest.spec["annotations"], json!({ "a": "b" }), "the hook inside gets them");
    assert_eq!(guest.spec["hooks"], json!({ "startContainer": [{ "path": "/x" }] }));
    assert_eq!(guest.spec["process"], json!({ "args": ["x"] }));
    assert_eq!(guest.spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
    assert_eq!(guest.spec["unknown"], 1);
    assert_eq!(guest.notes.len(), 2, "{:?}", guest.notes);
    let without = good(&json!({ "annotations": { "a": "b" }, "hooks": { "prestart": [] } })).spec;
    assert!(without.get("hooks").is_none() && without.get("annotations").is_none());
}

#[test]
fn wrong_types_are_named() {
    for (spec, field) in [
        (json!([]), "config.json"),
        (json!({ "mounts": 7 }), "mounts"),
        (json!({ "hooks": [] }), "hooks"),
        (json!({ "linux": 7 }), "linux"),
        (json!({ "process": "x" }), "process"),
        (json!({ "linux": { "namespaces": {} } }), "namespaces"),
        (json!({ "linux": { "namespaces": [{}] } }), "linux.namespaces[0].type"),
        (
            json!({ "linux": { "namespaces": [{ "type": "network", "path": 7 }] } }),
            "linux.namespaces[0].path",
        ),
        (json!({ "linux": { "devices": [{ "path": "/x" }] } }), "linux.devices[0].type"),
        (json!({ "linux": { "resources": 7 } }), "linux.resources"),
        (json!({ "linux": { "resources": { "cpu": 7 } } }), "linux.resources.cpu"),
    ] {
        let error = run(&spec).unwrap_err().to_string();
        assert!(error.contains(field), "{spec}: {error}");
    }
    let nothing = good(&json!({ "mounts": null, "linux": null, "hooks": null, "process": null }));
    assert_eq!(nothing.network, Network::Host);
}
