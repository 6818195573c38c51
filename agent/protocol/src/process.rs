//! What the kernel says of one process of a container.

use serde::{Deserialize, Serialize};

/// A process, as `ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its pid on the host; absent for a process of a guest, of which the host knows nothing.
    pub host_pid: Option<u32>,
    /// Its pid where the agent or the engine runs.
    pub pid: u32,
    /// Its parent's pid there.
    pub ppid: u32,
    /// Its effective user.
    pub uid: u32,
    /// One letter, as in proc(5): `R`, `S`, `D`, `Z`, `T`, ….
    pub state: char,
    /// Its terminal, `pts/0`; absent without one.
    pub tty: Option<String>,
    /// Its threads.
    pub threads: u32,
    /// Milliseconds since the boot of its kernel when it started.
    pub started_ms: u64,
    /// Milliseconds on processors.
    pub cpu_ms: u64,
    /// Bytes of memory that it uses.
    pub resident: u64,
    /// Its command line, words joined by spaces; the program's name in brackets when there is none. Cut after
    /// [`ProcessInfo::MAX_COMMAND`] bytes.
    pub command: String,
}

impl ProcessInfo {
    /// More of a command line is cut.
    pub const MAX_COMMAND: usize = 1024;
}
