//! Bundles with busybox.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

/// A bundle and a state directory, gone in the end.
pub(crate) struct Bundle {
    directory: tempfile::TempDir,
}

impl Bundle {
    /// A bundle whose container runs these words.
    pub(crate) fn new(args: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("bulkhead-microvm-").tempdir().unwrap();
        let bundle = Self { directory };
        let root = bundle.path().join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp", "etc", "mnt"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/usr/bin/busybox", root.join("bin/busybox"))
            .expect("busybox-static is installed");
        for name in ["sh", "cat", "echo", "sleep", "kill", "stty", "true", "dd", "ls", "wc", "head"]
        {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::create_dir(bundle.state()).unwrap();
        bundle.write(&config(args));
        bundle
    }

    /// Packs the root into an image, which becomes the container's root.
    pub(crate) fn pack(self) -> Self {
        let made = Command::new("mkfs.erofs")
            .arg(self.path().join("image.erofs"))
            .arg(self.path().join("rootfs"))
            .output()
            .expect("erofs-utils is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(crate) fn write(&self, config: &Value) {
        fs::write(self.path().join("config.json"), config.to_string()).unwrap();
    }

    /// Changes the configuration.
    pub(crate) fn with(self, change: impl FnOnce(&mut Value)) -> Self {
        let mut config =
            serde_json::from_slice(&fs::read(self.path().join("config.json")).unwrap()).unwrap();
        change(&mut config);
        self.write(&config);
        self
    }
}

fn config(args: &[&str]) -> Value {
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": process(args),
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": { "pids": { "limit": 64 } },
        },
    })
}

/// A process of the container.
pub(crate) fn process(args: &[&str]) -> Value {
    json!({ "cwd": "/", "args": args, "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } })
}

/// A program of this build.
pub(crate) fn built(name: &str, variable: &str) -> PathBuf {
    env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release").join(name);
        assert!(path.exists(), "{} is not there: `make build`, or set {variable}", path.display());
        path
    })
}
