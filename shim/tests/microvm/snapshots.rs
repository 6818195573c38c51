//! Roots that containerd's snapshotters describe by mounts: what a guest sees of them, and where the host finds what it wrote.

use std::{collections::BTreeSet, fs, path::PathBuf};

use bulkhead::sandbox::{Mount, vm::takes};
use serde_json::json;

use crate::{
    bundle::Bundle,
    host::{LoopDevice, Mounted, attribute, names, path, run},
    lifecycle::{kill, leftovers},
    running::{Maker, until},
};

/// Names of the containers.
const ID: &str = "bulkhead-test-mounts";

pub(crate) fn roots_of_containerds_mounts() {
    let place = Place::new();
    place.an_overlay();
    println!("  overlay");
    place.a_view();
    println!("  view");
    place.directories();
    println!("  directories");
    place.disks();
    println!("  disks");
    place.a_killed_monitor();
    println!("  killed");
}

/// Snapshots as the overlayfs snapshotter has them.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// Two committed ones, the second over the first.
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let base = place.snapshot(1);
        let bundle = Bundle::new(&["true"]);
        run("cp", &["-a", path(&bundle.path().join("rootfs/.")), path(&base)]);
        for name in ["gone", "opaque/old", "kept/below", "moved"] {
            let file = base.join("data").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{name}\n")).unwrap();
        }
        let second = place.snapshot(2);
        let options = [place.lower(&[1]), place.upper(2)].concat();
        let mounted = Mounted::overlay(&options);
        let data = mounted.0.path().join("data");
        fs::remove_file(data.join("gone")).unwrap();
        fs::remove_dir_all(data.join("opaque")).unwrap();
        fs::create_dir(data.join("opaque")).unwrap();
        fs::write(data.join("opaque/new"), "new\n").unwrap();
        fs::write(data.join("kept/above"), "above\n").unwrap();
        drop(mounted);
        assert!(second.join("data/gone").symlink_metadata().is_ok());
        place
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    fn snapshot(&self, number: u32) -> PathBuf {
        fs::create_dir_all(self.path(number).join("work")).unwrap();
        let root = self.path(number).join("fs");
        fs::create_dir_all(&root).unwrap();
        root
    }

    fn lower(&self, numbers: &[u32]) -> Vec<String> {
        let paths: Vec<_> =
            numbers.iter().map(|number| format!("{}/fs", self.path(*number).display())).collect();
        vec![format!("lowerdir={}", paths.join(":"))]
    }

    fn upper(&self, number: u32) -> Vec<String> {
        let path = self.path(number);
        let path = path.display();
        vec!["index=off".into(), format!("workdir={path}/work"), format!("upperdir={path}/fs")]
    }

    /// An active snapshot over both.
    fn active(&self, number: u32) -> Vec<Mount> {
        let options = [self.lower(&[2, 1]), self.upper(number)].concat();
        vec![mount("overlay", "overlay", &options)]
    }

    fn an_overlay(&self) {
        let upper = self.snapshot(3);
        let script = "set -e; cat data/opaque/* data/kept/*; ls data; echo written > data/new; rm data/moved; \
            rm -r data/kept; mkdir data/kept; echo again > data/kept/mine; echo more >> data/opaque/new; exit 6";
        let seen = "new\nabove\nkept/below\nkept\nmoved\nopaque\n";
        assert_eq!(run_container(&self.active(3), false, script), (6, seen.into()));
        // Where containerd's differ looks, and as the host's overlay understands it.
        assert_eq!(fs::read_to_string(upper.join("data/new")).unwrap(), "written\n");
        let options = [self.lower(&[2, 1]), self.upper(3)].concat();
        let expected =
            BTreeSet::from(["kept", "kept/mine", "new", "opaque", "opaque/new"].map(String::from));
        let mounted = Mounted::overlay(&options);
        assert_eq!(names(&mounted.0.path().join("data")), expected);
        let data = mounted.0.path().join("data");
        assert_eq!(fs::read_to_string(data.join("opaque/new")).unwrap(), "new\nmore\n");
        // The host makes a directory opaque in its own way; then the guest has it again.
        fs::remove_dir_all(data.join("opaque")).unwrap();
        fs::create_dir(data.join("opaque")).unwrap();
        drop(mounted);
        let script = "cat data/new data/kept/*; ls data/opaque | wc -l";
        assert_eq!(
            run_container(&self.active(3), false, script),
            (0, "written\nagain\n0\n".into())
        );
        // Committed, it is a layer like the others.
        let over = vec![mount("overlay", "overlay", &self.lower(&[3, 2, 1]))];
        let script = "cat data/new data/kept/*; ls data data/opaque";
        let seen = "written\nagain\ndata:\nkept\nnew\nopaque\n\ndata/opaque:\n";
        assert_eq!(run_container(&over, false, script), (0, seen.into()));
    }

    /// Nothing of a root that is not written to is written.
    fn a_view(&self) {
        let view = vec![mount("overlay", "overlay", &self.lower(&[2, 1]))];
        let script = "cat data/kept/above; echo x > /data/kept/above || echo refused; echo x > /new || echo refused";
        let seen = "above\nrefused\nrefused\n";
        assert_eq!(run_container(&view, false, script), (0, seen.into()));
        let upper = self.snapshot(4);
        assert_eq!(run_container(&self.active(4), true, script), (0, seen.into()));
        assert_eq!(fs::read_dir(&upper).unwrap().count(), 0);
        fs::write(upper.join("there"), "already\n").unwrap();
        let script = "cat there; echo x > there || echo refused";
        let seen = "already\nrefused\n";
        assert_eq!(run_container(&self.active(4), true, script), (0, seen.into()));
    }

    /// As of a snapshot without parents, and of the native snapshotter.
    fn directories(&self) {
        let root = self.path(1).join("fs");
        let bind =
            |option: &str| vec![mount("bind", path(&root), &["rbind".into(), option.into()])];
        let script = "echo x > /data/bound && cat /data/bound || echo refused";
        assert_eq!(run_container(&bind("ro"), false, script), (0, "refused\n".into()));
        assert!(!root.join("data/bound").exists());
        // What was a lower directory changes: its disk is made anew.
        assert_eq!(run_container(&bind("rw"), false, script), (0, "x\n".into()));
        assert_eq!(fs::read_to_string(root.join("data/bound")).unwrap(), "x\n");
        fs::rename(root.join("data/bound"), root.join("bound")).unwrap();
        let view = vec![mount("overlay", "overlay", &self.lower(&[2, 1]))];
        assert_eq!(run_container(&view, false, "cat /bound"), (0, "x\n".into()));
        fs::remove_file(root.join("bound")).unwrap();
    }

    /// As of the blockfile and erofs snapshotters, which name files, and of devmapper, which names block devices.
    fn disks(&self) {
        let [ext4, erofs] = ["ext4", "erofs"].map(|name| self.directory.path().join(name));
        let root = self.path(1).join("fs");
        fs::File::create(&ext4).unwrap().set_len(32 << 20).unwrap();
        run("mke2fs", &["-q", "-t", "ext4", "-d", path(&root), path(&ext4)]);
        run("mkfs.erofs", &[path(&erofs), path(&root)]);
        let [loop_ext4, loop_erofs] = [&ext4, &erofs].map(|file| LoopDevice::new(file));
        let disk = |kind: &str, source: &str, options: &[&str]| {
            let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
            vec![mount(kind, source, &options)]
        };
        let script = |name: &str| {
            format!("cat /data/moved; echo x > /data/{name} && cat /data/{name} || echo refused")
        };
        for (name, mounts) in [
            ("file", disk("ext4", path(&ext4), &["loop"])),
            ("device", disk("ext4", &loop_ext4.0, &[])),
        ] {
            let written = (0, "moved\nx\n".into());
            assert_eq!(run_container(&mounts, false, &script(name)), written, "{mounts:?}");
        }
        for mounts in [
            disk("ext4", path(&ext4), &["ro", "loop"]),
            disk("ext4", &loop_ext4.0, &["ro"]),
            disk("erofs", path(&erofs), &["ro", "loop"]),
            disk("erofs", &loop_erofs.0, &[]),
        ] {
            let refused = (0, "moved\nrefused\n".into());
            assert_eq!(run_container(&mounts, false, &script("other")), refused, "{mounts:?}");
        }
        // Whole when the machine has ended, for the device and for the file behind it.
        for (source, options) in [(loop_ext4.0.as_str(), "ro"), (path(&ext4), "loop,ro")] {
            let mounted = Mounted::new("ext4", source, options);
            let found = ["file", "device", "other"]
                .map(|name| mounted.0.path().join("data").join(name).exists());
            assert_eq!(found, [true, true, false], "{source}");
        }
    }

    /// Whoever removes its container does what it would have done.
    fn a_killed_monitor(&self) {
        self.snapshot(5);
        let script = "rm -r data/kept; mkdir data/kept; echo done; sleep 1000";
        let bundle = bundle(&self.active(5), false, script);
        let mut maker = Maker::create(&bundle, ID);
        maker.with(|sandbox| sandbox.start()).unwrap();
        let upper = self.path(5).join("fs/data/kept");
        until("the directory is there", || upper.exists());
        until("it is opaque", || attribute(&upper, "user.overlay.opaque"));
        kill(maker.pid(), 9);
        maker.child.wait().unwrap();
        assert!(!attribute(&upper, "trusted.overlay.opaque"));
        maker.with(|sandbox| sandbox.remove()).unwrap();
        assert!(attribute(&upper, "trusted.overlay.opaque"));
        assert_eq!(leftovers(&bundle, ID), Vec::<String>::new());
    }
}

fn bundle(mounts: &[Mount], read_only: bool, script: &str) -> Bundle {
    assert!(takes(mounts), "{mounts:?}");
    let bundle = Bundle::new(&["sh", "-c", script]).with(|config| {
        config["root"] = json!({ "path": "rootfs", "readonly": read_only });
    });
    // What containerd would mount on.
    fs::remove_dir_all(bundle.path().join("rootfs")).unwrap();
    fs::create_dir(bundle.path().join("rootfs")).unwrap();
    fs::write(bundle.path().join("mounts.json"), serde_json::to_vec(mounts).unwrap()).unwrap();
    bundle
}

/// Runs a container to its end: its code and output.
fn run_container(mounts: &[Mount], read_only: bool, script: &str) -> (i32, String) {
    let bundle = bundle(mounts, read_only, script);
    let mut maker = Maker::create(&bundle, ID);
    maker.with(|sandbox| sandbox.start()).unwrap();
    drop(maker.child.stdin.take());
    let mut output = String::new();
    std::io::Read::read_to_string(&mut maker.child.stdout.take().unwrap(), &mut output).unwrap();
    let code = maker.child.wait().unwrap().code().unwrap();
    let log = maker.log();
    assert!(log.is_empty(), "{log}");
    maker.with(|sandbox| sandbox.remove()).unwrap();
    assert_eq!(leftovers(&bundle, ID), Vec::<String>::new());
    (code, output)
}

fn mount(kind: &str, source: &str, options: &[String]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.to_vec(),
    }
}
