//! The disk of the logs is full: the container goes on, it is said once, and when there is room again so does the log.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_tests::harness::{containerd::Containerd, oci::Oci, own_memory};

isolations!(a_full_disk_stops_nobody);

/// A disk of one mebibyte.
struct Disk(PathBuf);

impl Disk {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "logs"]).arg(&path);
        assert!(mount.status().unwrap().success());
        Self(path)
    }

    /// Leaves no room.
    fn fill(&self) {
        let file = self.0.join("filler");
        let mut filler = fs::File::options().append(true).create(true).open(file).unwrap();
        while std::io::Write::write(&mut filler, &[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed may hold it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Writes much each time that it is told to, and says when it has.
const WRITES: &str = "mkfifo /go /done; while read n < /go; do \
    head -c 100000 /dev/zero | tr '\\0' x; echo round $n; echo $n > /done; done";

fn a_full_disk_stops_nobody(oci: &Oci) {
    if !oci.is_bulkhead() {
        eprintln!("SKIPPED: others' programs wait for room");
        return;
    }
    let containerd = Containerd::new(oci);
    let disk = Disk::new(oci.path("logs"));
    let logger = oci.path("logger");
    let text = format!(
        "#!/bin/sh\nexec 5>&-\nset -e\nwhile read -r line; do echo $line; done <&3 >>{}/of-program\n",
        disk.0.display()
    );
    fs::write(&logger, text).unwrap();
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
    let file = disk.0.join("of-file");
    let urls = [format!("file://{}", file.display()), format!("binary://{}", logger.display())];
    let ids = ["to-file", "to-program"];
    for (id, url) in ids.iter().zip(&urls) {
        containerd.detached(&["--log-uri", url], id, WRITES);
    }
    let round = |id: &str, n: u32| {
        let script =
            format!("until [ -p /done ]; do sleep 0.2; done; echo {n} > /go; read n < /done");
        containerd.exec(&format!("round{n}"), id, &script).assert_code(0);
    };
    let has = |path: &Path, n: u32| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.contains(&format!("round {n}\n"))
    };
    let told = |text: &str| containerd.logged().matches(text).count();
    round("to-file", 1);
    oci.wait("the first round's log", || has(&file, 1));
    disk.fill();
    round("to-file", 2);
    (1..=3).for_each(|n| round("to-program", n));
    let ended = format!("the logger {} ended", logger.display());
    oci.wait("a line of its end", || told(&ended) == 1);
    assert!(!has(&file, 2));
    assert!(own_memory(containerd.shim_pid("to-file")) < 8 << 10);
    let full = format!("cannot write {}: No space left on device", file.display());
    oci.wait("a line of it", || told(&full) == 1);
    disk.empty();
    round("to-file", 3);
    oci.wait("the third round's log", || has(&file, 3));
    oci.wait("another line", || told("bytes of output were lost") == 1);
    assert_eq!(told(&full), 1);
    for id in ids {
        assert_eq!(containerd.task(id).unwrap().1, "RUNNING");
        containerd.remove(id);
    }
}
