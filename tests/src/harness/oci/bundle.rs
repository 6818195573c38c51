//! A bundle: a configuration as engines write it, and a root file system.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::make_rootfs;

/// Capabilities by number (capability.h).
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities as `/proc/PID/status` writes it.
#[must_use]
pub fn capability_bits(names: &[&str]) -> String {
    let bit = |name: &&str| {
        CAPABILITIES.iter().position(|known| known == name).map_or(0, |bit| 1u64 << bit)
    };
    format!("{:016x}", names.iter().map(bit).sum::<u64>())
}

/// A bundle's directory and the configuration that [`Bundle::write`] puts there.
#[derive(Debug)]
pub struct Bundle {
    /// The directory.
    pub path: PathBuf,
    /// `config.json`.
    pub config: Value,
}

impl Bundle {
    pub(super) fn new(path: PathBuf, cgroups_path: &str) -> Self {
        fs::create_dir_all(&path).expect("the bundle's directory");
        // A second bundle of that name has the same root file system.
        if !path.join("rootfs").exists() {
            make_rootfs(&path.join("rootfs"));
        }
        Self { config: default_config(cgroups_path), path }
    }

    /// The root file system on the host.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Sets the program.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// Sets a shell script as program.
    pub fn sh(&mut self, script: &str) -> &mut Self {
        self.args(&["sh", "-c", script])
    }

    /// Adds a mount.
    pub fn mount(
        &mut self,
        kind: &str,
        source: &Path,
        destination: &str,
        options: &[&str],
    ) -> &mut Self {
        let mount =
            json!({"type": kind, "source": source, "destination": destination, "options": options});
        self.config["mounts"].as_array_mut().expect("mounts").push(mount);
        self
    }

    /// Leaves out one of the namespaces.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != kind);
        self
    }

    /// Joins another's namespace, or makes one that is not in the default configuration.
    pub fn namespace(&mut self, kind: &str, path: Option<&str>) -> &mut Self {
        self.without_namespace(kind);
        let mut namespace = json!({"type": kind});
        if let Some(path) = path {
            namespace["path"] = json!(path);
        }
        self.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(namespace);
        self
    }

    /// Writes `config.json`.
    pub fn write(&self) -> &Self {
        fs::write(self.path.join("config.json"), self.config.to_string()).expect("config.json");
        self
    }
}

/// What engines write by default: new namespaces, docker's mounts and masks, few capabilities.
fn default_config(cgroups_path: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "a-container",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "cgroupsPath": cgroups_path,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
