//! What a scout is told, and what it tells.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of [`Report`].
pub const REPORT_VERSION: u32 = 1;

/// What the bench has put on the host for the scout to look for; the scout's first line of input.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Hints {
    /// A word that is in the arguments of one process of the host, the name of one key of its user's keyring, and the content of the file.
    pub nonce: String,
    /// The path of a file of the host.
    pub file: String,
    /// That file by its number.
    pub handle: Option<Handle>,
    /// The name of an abstract Unix socket in the host's network namespace.
    pub socket: String,
    /// Paths of the host that a list of mounts might name.
    pub paths: Vec<String>,
    /// Major and minor number of a block device of the host.
    pub block: Option<(u32, u32)>,
}

/// A file handle, as name_to_handle_at(2) gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// Its type.
    pub kind: i32,
    /// Its bytes, at most 128.
    pub bytes: Vec<u8>,
}

/// Everything that was seen; the scout's first line of output. What could not be read is absent or `null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The kernel.
    pub kernel: Kernel,
    /// The inode number of each of its namespaces, which is unique in a kernel: `net`, `pid`, ….
    pub namespaces: BTreeMap<String, u64>,
    /// Processes.
    pub processes: Processes,
    /// Mounts.
    pub mounts: Mounts,
    /// Devices.
    pub devices: Devices,
    /// Keys.
    pub keys: Keys,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Clocks.
    pub clocks: Clocks,
    /// Processors and memory.
    pub processors: Processors,
    /// Kernel settings, control groups and bind mounts that it may write.
    pub writable: Vec<String>,
    /// What became of each of [`crate::ATTEMPTS`], by name.
    pub attempts: BTreeMap<String, Outcome>,
}

/// The kernel as uname(2) and /proc tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// As `6.1.0`.
    pub release: String,
    /// When and how it was built.
    pub version: String,
    /// It is one and the same running kernel exactly if this is.
    pub boot_id: Option<String>,
    /// Bytes of its command line.
    pub command_line: Option<u64>,
    /// /proc/kallsyms.
    pub symbols: Symbols,
    /// Modules that are loaded.
    pub modules: Option<u64>,
    /// Bytes of its log that could be read, up to 64 KiB.
    pub log: Option<u64>,
}

/// What /proc/kallsyms tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Symbols {
    /// Nothing.
    #[default]
    None,
    /// Names, with zeros for addresses.
    Names,
    /// Names and where they are.
    Addresses,
}

/// Processes in /proc.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// How many.
    pub visible: u64,
    /// The names of some.
    pub names: Vec<String>,
    /// The pid under which the bench's process of the host is seen.
    pub canary: Option<u32>,
}

/// /proc/self/mountinfo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    /// How many.
    pub count: u64,
    /// The types of their file systems.
    pub filesystems: Vec<String>,
    /// Those of [`Hints::paths`] that it names.
    pub host_paths: Vec<String>,
}

/// Devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// Nodes in /dev that are devices.
    pub nodes: Vec<String>,
    /// Block devices in /sys/class/block.
    pub blocks: Vec<String>,
    /// PCI functions in /sys.
    pub pci: u64,
}

/// Keys of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Keys in /proc/keys.
    pub listed: Option<u64>,
    /// The bench's key of the host was found in the user's keyring.
    pub canary: bool,
}

/// Control groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    /// The paths of its own, without repetition.
    pub own: Vec<String>,
    /// Directories below /sys/fs/cgroup, of the first few thousand.
    pub directories: u64,
}

/// Clocks, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// `CLOCK_REALTIME`.
    pub realtime: u64,
    /// `CLOCK_BOOTTIME`: how long this kernel has run.
    pub boottime: u64,
}

/// Processors and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processors {
    /// Those in /proc/cpuinfo.
    pub listed: u64,
    /// Those that it may run on.
    pub usable: u64,
    /// The first one's name.
    pub model: Option<String>,
    /// All memory that /proc/meminfo tells of, in KiB.
    pub memory_kib: Option<u64>,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It got past every check; nothing was done with it, and what it made is gone again.
    Allowed,
    /// The error, as `EPERM`.
    Denied(String),
    /// There is no such thing here: the error.
    Absent(String),
}
