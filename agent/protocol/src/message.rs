//! The messages themselves. Both ends ignore no field: an unknown one is an error.
//! Requests are generic over the types that hold a runtime specification, a process and limits: the monitor sends the
//! JSON that it was given as it is, and the agent reads the part that it uses into its own small types.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Connect, Memory, Network, ProcessInfo, Query, Resolved, Shared, Stats};

/// Names one stdio stream of one process, or a connection to a port; chosen by the monitor, unique in a sandbox.
pub type Token = u64;

/// What the monitor asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request<S = Value, P = Value, R = Value> {
    /// Chosen by the monitor; comes back in the reply.
    pub seq: u64,
    /// The call and its arguments.
    pub call: Call<S, P, R>,
}

/// One call of the monitor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Call<S = Value, P = Value, R = Value> {
    /// Makes a container up to the point where its process waits to execute (OCI runtime-spec, lifecycle, "created").
    Create(Box<Create<S>>),
    /// Lets a created container's process execute its program.
    Start {
        /// The container's id.
        container: String,
    },
    /// Runs one more process in a running container.
    Exec(Box<Exec<P>>),
    /// Sends a signal.
    Kill {
        /// Whom to signal.
        target: Target,
        /// The signal's number.
        signal: i32,
        /// Signal every process of the container instead of the one named.
        all: bool,
    },
    /// Sets a terminal's size.
    Resize {
        /// Whose terminal.
        target: Target,
        /// Its new size.
        size: WindowSize,
    },
    /// Stops all processes of a container until [`Call::Resume`] or a `SIGKILL`.
    Pause {
        /// The container's id.
        container: String,
    },
    /// Lets the processes of a paused container go on.
    Resume {
        /// The container's id.
        container: String,
    },
    /// Changes a container's limits; those that are absent stay.
    Update {
        /// The container's id.
        container: String,
        /// Limits (OCI runtime-spec, config-linux, `linux.resources`).
        resources: R,
    },
    /// What a container uses.
    Stats {
        /// The container's id.
        container: String,
    },
    /// The processes of a container.
    Processes {
        /// The container's id.
        container: String,
    },
    /// Removes a stopped container: its mounts and cgroup. Fails with [`FailureKind::State`] while processes that joined it have not ended.
    Delete {
        /// The container's id.
        container: String,
    },
    /// Fails with [`FailureKind::State`] while something is mounted from one of these block devices.
    Release {
        /// Their paths.
        devices: Vec<PathBuf>,
    },
    /// To the agent of a machine that becomes a template: it gets ready for what a clone is asked first, and is idle when
    /// it has answered.
    Prepare(Box<Prepare<S>>),
    /// To the agent of a clone, before anything else: the answer is [`Reply::Awake`].
    Awaken(Awaken),
    /// A name server's answer to a [`Message::Query`].
    Resolved(Resolved),
    /// Connects to a port in the guest. The answer says only whether that has begun.
    Connect(Connect),
    /// Ends every process, writes every file system back and powers the guest off.
    Shutdown,
}

/// Arguments of [`Call::Prepare`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare<S = Value> {
    /// 32 hexadecimal digits that the agent keeps in its memory: who knows them is a clone of this machine.
    pub nonce: String,
    /// Containers like those to come, at most [`crate::MAX_EXPECTED`]: what can be made ahead is made from them, the process from
    /// the first. A container that differs is made all the same.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub specs: Vec<S>,
    /// Tags of virtio-fs devices that may be asked for ([`Create::shares`]), with nothing in them as yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<String>,
}

/// Arguments of [`Call::Awaken`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Awaken {
    /// 128 hexadecimal digits from the host's random number generator. They are mixed into the guest's, credited in full,
    /// and that is reseeded, before anything else happens.
    pub seed: String,
    /// The host's `CLOCK_REALTIME` in nanoseconds; the guest's is set when it is off by more than a millisecond.
    pub realtime_ns: u64,
}

/// Without the seed, which must not get into a log.
impl std::fmt::Debug for Awaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Awaken").field("realtime_ns", &self.realtime_ns).finish_non_exhaustive()
    }
}

/// Arguments of [`Call::Create`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create<S = Value> {
    /// The container's id: 1 to 128 characters of `[A-Za-z0-9_.+-]`.
    pub container: String,
    /// The OCI runtime specification; `root.path` is not used, [`Create::root`] says where the root comes from.
    pub spec: S,
    /// Where the container's root file system comes from.
    pub root: Root,
    /// The streams of the container's process.
    pub stdio: Stdio,
    /// Tags of virtio-fs devices that the root or the mounts need, each at most 36 characters of `[A-Za-z0-9_.-]`. A tag is
    /// mounted once, on [`crate::SHARES`]`/TAG`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<String>,
    /// The bundle's directory on the host, for the state that hooks get.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bundle: String,
    /// The container's network; absent: a loopback device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Namespaces of other containers, in the place of those that the specification has of their types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<Shared>,
    /// File systems that its mounts are bound from and that other containers have, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<Memory>,
}

/// Where a container's root file system comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Root {
    /// A read-only lower file system and what is laid over it.
    Layers {
        /// The image.
        lower: Lower,
        /// What takes the writes.
        upper: Upper,
    },
    /// An ext4 file system on a block device, which is written to.
    Disk {
        /// The device.
        device: PathBuf,
    },
    /// A directory that is already there.
    Directory {
        /// Its absolute path where the agent runs.
        path: PathBuf,
    },
}

/// The read-only part of a root.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lower {
    /// An EROFS file system on a block device.
    Erofs {
        /// The device, `/dev/vda` for the VMM's first disk.
        device: PathBuf,
    },
    /// An ext4 file system on a block device, which is only read.
    Ext4 {
        /// The device.
        device: PathBuf,
    },
}

/// What takes the writes to a root.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Upper {
    /// Nothing: the root is read-only.
    None,
    /// An ext4 file system on a block device; what is written stays on it.
    Ext4 {
        /// The device, `/dev/vdb` for the VMM's second disk.
        device: PathBuf,
    },
    /// The guest's memory; what is written goes with the sandbox.
    Tmpfs,
    /// Directories that are already there, of one virtio-fs device. overlayfs keeps its marks in attributes `user.overlay.*` there, since the
    /// host's file server may not touch `trusted.*`.
    Directory {
        /// What is written, by its absolute path where the agent runs.
        upper: PathBuf,
        /// overlayfs's own, on the same mount.
        work: PathBuf,
    },
}

/// Arguments of [`Call::Exec`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec<P = Value> {
    /// The new process's name and its container.
    pub target: Target,
    /// What to run (OCI runtime-spec, config, process).
    pub process: P,
    /// The streams of the process.
    pub stdio: Stdio,
}

/// A container's own process, or one that [`Call::Exec`] started in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The container's id.
    pub container: String,
    /// The name that [`Call::Exec`] gave; absent for the container's own process.
    pub exec: Option<String>,
}

/// The streams of a process. With a terminal (`process.terminal` of the specification) `main` carries the terminal's both directions and `stderr` is absent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stdio {
    /// Host to guest: standard input, ended by the monitor's half-close. Guest to host: standard output. Absent: both are `/dev/null`.
    pub main: Option<Token>,
    /// False: standard input is empty from the start.
    pub stdin: bool,
    /// Guest to host: standard error. Absent: `/dev/null`.
    pub stderr: Option<Token>,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// The first and only framed message on a stdio connection, from the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamHello {
    /// Which stream this connection is.
    pub token: Token,
}

/// What the agent sends on the control connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Message {
    /// The agent waits for requests; always its first message.
    Ready(Ready),
    /// The answer to a request.
    Reply {
        /// The request's number.
        seq: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// A process asks a name server.
    Query(Query),
    /// Nobody listens where [`Call::Connect`] wanted to connect to.
    Refused {
        /// [`Connect::stream`], which does not come.
        stream: Token,
    },
    /// A process ended.
    Exited(Exited),
    /// Processes of a running container were killed for want of memory.
    OomKilled {
        /// The container's id.
        container: String,
        /// How many since the last message.
        count: u64,
    },
}

/// What the agent says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// [`crate::VERSION`] of the agent.
    pub version: u32,
    /// The release of the kernel it runs on (`uname -r`).
    pub kernel: String,
}

/// What a successful call returns.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// Nothing to add.
    Done,
    /// A process was made.
    Process {
        /// Its pid where the agent runs.
        pid: u32,
        /// A line for each wish that this kernel does not know and that was left out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
        /// It was made ahead ([`Call::Prepare`]), with so many of its mounts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ahead: Option<usize>,
    },
    /// Limits were changed; a line for each that this kernel does not know and that was left out.
    Updated {
        /// The lines.
        warnings: Vec<String>,
    },
    /// What a container uses.
    Stats(Box<Stats>),
    /// The processes of a container.
    Processes(Vec<ProcessInfo>),
    /// A clone is awake.
    Awake {
        /// [`Prepare::nonce`] of its template; absent when this machine was never prepared, and so is no clone.
        nonce: Option<String>,
    },
}

/// Why a call failed.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{message}")]
pub struct Failure {
    /// The kind, from which the monitor takes its exit code.
    pub kind: FailureKind,
    /// One line for the user: the thing, the value and the reason.
    pub message: String,
}

/// Kinds of failure that a user's exit code depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The program is not in the root (exit code 127).
    ProgramNotFound,
    /// The program cannot be executed (exit code 126).
    ProgramNotExecutable,
    /// No such container or process, or not in the state that the call needs.
    State,
    /// The request asks for what cannot be.
    Invalid,
    /// The guest's kernel refused.
    System,
}

/// A process ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exited {
    /// Which one.
    pub target: Target,
    /// How.
    pub status: ExitStatus,
    /// The container's memory limit killed a process of it (`oom_kill` of cgroup v2's `memory.events`).
    pub oom_killed: bool,
    /// Bytes that had been written to [`Stdio::main`] and [`Stdio::stderr`] by then. Its children may write more.
    pub written: [u64; 2],
}

/// How a process ended (wait(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl ExitStatus {
    /// The code that a shell and docker give: the exit code, or 128 and the signal's number.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => signal.saturating_add(128),
        }
    }
}
