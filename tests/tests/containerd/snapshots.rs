//! Roots of containerd's snapshotters: what a container wrote is where containerd looks for it, whatever the root was in its machine.

use std::{
    fs,
    process::{Command, Stdio},
};

use bulkhead_tests::harness::{
    containerd::{Containerd, IMAGE},
    oci::Oci,
};

isolations!(hold_what_was_written);

/// With overlayfs, whose lower directories are disks of a microVM, with native, whose directory is shared, and with what else this containerd
/// has: blockfile (since 1.7), whose file is a disk, and erofs (since 2.1), whose mounted layers are shared.
fn hold_what_was_written(oci: &Oci) {
    let scratch = oci.path("scratch.ext4");
    fs::File::create(&scratch).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&scratch).status().unwrap();
    assert!(made.success());
    let blockfile = format!(
        "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\nscratch_file = \"{}\"\nfs_type = \"ext4\"\n",
        scratch.display()
    );
    let containerd = Containerd::new_with(oci, &blockfile);
    let listed = containerd.text(&["plugins", "ls"]);
    let has = |name: &&str| {
        let is = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.starts_with(&["io.containerd.snapshotter.v1", name]) && words.ends_with(&["ok"])
        };
        listed.lines().any(is)
    };
    let snapshotters: Vec<_> =
        ["overlayfs", "native", "blockfile", "erofs"].into_iter().filter(has).collect();
    assert!(snapshotters.starts_with(&["overlayfs", "native"]), "{listed}");
    println!("snapshotters: {snapshotters:?}");
    for snapshotter in snapshotters {
        let script = "rm -r /etc; mkdir /etc; echo mine > /etc/mine; echo new > /new; cat /etc/*";
        let run = |options: &[&str], id: &str, script: &str| {
            let options = [&["--snapshotter", snapshotter], options].concat();
            let command = containerd.run_command(&options, id, &["sh", "-c", script]);
            let outcome = oci.run_command(command);
            assert!(outcome.status.success(), "{outcome}\n{}", containerd.logged());
            outcome.text()
        };
        let id = format!("writes-{snapshotter}");
        assert_eq!(run(&[], &id, script), "mine\n");
        let names = difference(&containerd, snapshotter, &id);
        let has = |name: &str| names.iter().any(|found| found == name);
        assert!(has("etc/mine") && has("new") && !has("etc/hostname"), "{names:?}");
        assert!(has("etc/.wh.hostname") || has("etc/.wh..wh..opq"), "{names:?}");
        containerd.text(&["container", "rm", &id]);

        let id = format!("reads-{snapshotter}");
        let script = "ls /etc/hostname >/dev/null && ! touch /new 2>/dev/null && echo refused";
        assert_eq!(run(&["--read-only"], &id, script), "refused\n");
        let names = difference(&containerd, snapshotter, &id);
        assert!(!names.iter().any(|found| found == "new"), "{names:?}");
        containerd.text(&["container", "rm", &id]);
    }
    // The erofs snapshotter has its layers mounted as long as there are any.
    containerd.text(&["image", "rm", "--sync", IMAGE]);
    // Neither the shim nor what it did without left a mount.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let place = oci.path("run");
    assert!(!mounts.contains(place.to_str().unwrap()), "{mounts}");
}

/// The names in the layer that a commit of the snapshot would be.
fn difference(containerd: &Containerd<'_>, snapshotter: &str, id: &str) -> Vec<String> {
    let mut command = containerd.command(&["snapshots", "--snapshotter", snapshotter, "diff", id]);
    let mut diff = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let layer = diff.stdout.take().unwrap();
    let listed = Command::new("tar").args(["-tzf", "-"]).stdin(layer).output().unwrap();
    assert!(diff.wait().unwrap().success() && listed.status.success(), "{listed:?}");
    String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
}
