//! The root file system of bundles: busybox, which the distribution's package busybox-static has, and the probe.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    sync::OnceLock,
};

use super::super::probe;

const BUSYBOX: &str = "/bin/busybox";

/// Fills an empty directory: busybox and its commands, `/probe`, and the directories that every image has.
#[track_caller]
pub fn make_rootfs(root: &Path) {
    for name in [
        "bin",
        "dev",
        "etc",
        "home",
        "home/guest",
        "mnt",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "usr/bin",
        "usr/sbin",
        "var",
    ] {
        fs::create_dir_all(root.join(name)).expect("a directory of the root file system");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("/tmp");
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("the package busybox-static is installed");
    fs::copy(probe(), root.join("probe")).expect("the probe");
    for applet in applets() {
        if applet != "bin/busybox" {
            symlink("/bin/busybox", root.join(applet)).expect("a link to busybox");
        }
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n";
    fs::write(root.join("etc/passwd"), users).expect("/etc/passwd");
    fs::write(root.join("etc/group"), "root:x:0:\nguest:x:1000:\nextra:x:1001:guest\n")
        .expect("/etc/group");
}

/// The paths by which busybox is called, without a leading slash.
fn applets() -> &'static [String] {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let listed = Command::new(BUSYBOX).arg("--list-full").output().expect("busybox runs");
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        text.lines()
            .map(|line| line.trim_start_matches('/').to_owned())
            .filter(|path| !path.starts_with("linuxrc"))
            .collect()
    })
}
