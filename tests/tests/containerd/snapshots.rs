//! Roots of containerd's snapshotters: what a container wrote is where containerd looks for it, whatever the root was in its machine.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use bulkhead_tests::harness::{
    containerd::{Containerd, IMAGE},
    oci::Oci,
};

isolations!(hold_what_was_written);

/// With overlayfs, whose lower directories are disks of a microVM, with native, whose directory is shared, and with what else this containerd
/// has: blockfile (since 1.7), whose file is a disk, and erofs (since 2.1), whose layers' files are a disk.
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
        let run = |options: &[&str], id: &str, script: &str| {
            let options = [&["--snapshotter", snapshotter], options].concat();
            let command = containerd.run_command(&options, id, &["sh", "-c", script]);
            let outcome = oci.run_command(command);
            assert!(outcome.status.success(), "{outcome}\n{}", containerd.logged());
            outcome.text()
        };
        let id = format!("writes-{snapshotter}");
        let script = "rm -r /etc; mkdir /etc; echo mine > /etc/mine; echo new > /new; cat /etc/*; \
            grep ' / ' /proc/mounts | tail -n 1";
        let text = run(&[], &id, script);
        let (mine, root) = text.split_once('\n').unwrap();
        assert_eq!(mine, "mine");
        if oci.is_vm() {
            let kind = match snapshotter {
                "native" => "virtiofs",
                "blockfile" => "ext4",
                _ => "overlay",
            };
            assert_eq!(root.split(' ').nth(2), Some(kind), "{snapshotter}: {root}");
        }
        let names = difference(&containerd, snapshotter, &id);
        let has = |name: &str| names.iter().any(|found| found == name);
        assert!(has("etc/mine") && has("new") && !has("etc/hostname"), "{names:?}");
        assert!(has("etc/.wh.hostname") || has("etc/.wh..wh..opq"), "{names:?}");
        // What is committed is the same layer.
        let committed = format!("committed-{snapshotter}");
        let on = ["snapshots", "--snapshotter", snapshotter];
        containerd.text(&[&on[..], &["commit", &committed, &id]].concat());
        assert_eq!(difference(&containerd, snapshotter, &committed), names);
        containerd.text(&[&on[..], &["rm", &committed]].concat());
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
    oci.wait("all loop devices to be free", || !is_looped(&oci.path("")));
}

/// Whether a loop device has a file in this directory.
fn is_looped(directory: &Path) -> bool {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|device| fs::read(device.path().join("loop/backing_file")).ok());
    let place = directory.as_os_str().as_encoded_bytes();
    files.into_iter().any(|file| file.starts_with(place))
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
