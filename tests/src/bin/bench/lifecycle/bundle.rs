//! The bundle that every runtime gets: what `bulkhead-oci spec` writes (which is what runc's and crun's `spec` write), with
//! busybox as root file system.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_tests::harness::binary;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Reason;

/// Debian's package busybox-static.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// A bundle, with room for the runtimes' state beside it.
pub(super) struct Bundle {
    directory: TempDir,
}

impl Bundle {
    /// A bundle that runs these words.
    pub(super) fn make(arguments: &[&str]) -> Result<Self, Reason> {
        let failed = |error: std::io::Error| format!("the bundle: {error}");
        let directory = tempfile::tempdir().map_err(failed)?;
        let bundle = Self { directory };
        let rootfs = bundle.path().join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).map_err(failed)?;
        }
        let busybox = BUSYBOX.into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.ok_or("busybox is missing (package busybox-static)")?;
        fs::copy(busybox, rootfs.join("bin/busybox")).map_err(failed)?;
        for name in ["sh", "sleep", "true"] {
            symlink("busybox", rootfs.join("bin").join(name)).map_err(failed)?;
        }
        let mut command = Command::new(binary("bulkhead-oci"));
        let made = command.args(["spec", "--bundle"]).arg(bundle.path()).output();
        let made = made.map_err(|error| format!("bulkhead-oci: {error}"))?;
        if !made.status.success() {
            return Err(format!("bulkhead-oci spec: {}", String::from_utf8_lossy(&made.stderr)));
        }
        let file = bundle.path().join("config.json");
        let text = fs::read(&file).map_err(failed)?;
        let mut config: Value =
            serde_json::from_slice(&text).map_err(|error| format!("config.json: {error}"))?;
        // The last that crun 1.8 knows.
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(arguments);
        config["linux"]["cgroupsPath"] = json!(format!("/bulkhead-bench-{}", std::process::id()));
        fs::write(&file, config.to_string()).map_err(failed)?;
        Ok(bundle)
    }

    /// The directory of the bundle.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path beside `config.json`.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
