//! What other processes ask a monitor at its socket, and its answers: frames as the agent's (a length and JSON), from the
//! same user only. A connection's requests are answered one after the other. One that asked for [`Ask::Exec`] belongs to
//! that process until it ends: when it closes, the process is killed.

use bulkhead_protocol::{ExitStatus, Failure, Memory, Reply, Root, WindowSize};
use bulkhead_vmm::api::{Counters, Disk};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The socket's name in the state directory.
pub(crate) const SOCKET: &str = "monitor.sock";
/// The largest frame in either direction: an exec's process with its environment.
pub(crate) const MAX_FRAME: usize = bulkhead_protocol::MAX_TO_AGENT;

/// The most descriptors of a container that joins a pod.
pub(crate) const MAX_FDS: usize = bulkhead_vmm::api::MAX_DESCRIPTORS;

/// A container that joins a pod's machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Join {
    /// Its id.
    pub(crate) container: String,
    /// Its bundle.
    pub(crate) bundle: String,
    /// The guest's specification.
    pub(crate) spec: Value,
    /// Its root, of which `/dev/vda`, `/dev/vdb`, … are the first of `disks`, the second, ….
    pub(crate) root: Root,
    /// Its disks; their files come with this, before those of `entries`.
    pub(crate) disks: Vec<JoinDisk>,
    /// What is shared with it: one mount each comes with this.
    pub(crate) entries: Vec<JoinEntry>,
    /// Namespaces that it shares with others of the pod.
    pub(crate) shared: crate::sandbox::vm::rewrite::Shared,
    /// File systems in the guest's memory that it shares.
    pub(crate) memory: Vec<Memory>,
    /// Which of its three streams are not `/dev/null`.
    pub(crate) streams: [bool; 3],
    /// It has a terminal.
    pub(crate) terminal: bool,
}

/// A disk of a container that joins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinDisk {
    /// How it is to be used.
    pub(crate) read_only: bool,
    /// How many files it is made of.
    pub(crate) files: u32,
}

impl JoinDisk {
    /// What a machine's configuration says of a disk.
    pub(crate) fn of(disk: &Disk) -> Self {
        let files = u32::try_from(disk.files.len()).unwrap_or(u32::MAX);
        Self { read_only: disk.read_only, files }
    }
}

/// Something of the host that is shared with a container that joins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinEntry {
    /// The share.
    pub(crate) share: String,
    /// Its name in it, which nothing else ever has.
    pub(crate) name: String,
    /// Nothing is changed through it.
    pub(crate) read_only: bool,
    /// Its own directory stays as it is.
    pub(crate) sealed: bool,
}

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// What follows over this connection is about this container of the pod. There is no answer.
    At(String),
    /// Make a container in the machine of a pod. It belongs to this connection: when that closes, the container is killed. The answers are
    /// [`Answer::Started`] when it waits for its start, [`Answer::Exited`] when its process has ended, and [`Answer::Gone`] when nothing of it is left.
    Join(Box<Join>),
    /// Are there disks for a container that would join? [`Answer::Done`], or [`Answer::Failed`].
    Room(Vec<JoinDisk>),
    /// End a container that has joined, if it is there, and answer when nothing of it is left.
    Leave,
    /// In which state is the container?
    Status,
    /// Let its process execute the program.
    Start,
    /// Send a signal to its first process, or to all.
    Kill {
        /// The signal's number.
        signal: i32,
        /// Every process.
        all: bool,
    },
    /// Run one more process; see [`Answer::Started`].
    Exec {
        /// The OCI process.
        process: Value,
        /// Which of its three streams are not `/dev/null`.
        streams: [bool; 3],
    },
    /// Send a signal to this connection's process.
    Signal(i32),
    /// Set the size of this connection's process's terminal.
    Resize(WindowSize),
    /// Freeze the container.
    Pause,
    /// Let it go on.
    Resume,
    /// Set other limits (`linux.resources`).
    Update(Value),
    /// What it uses.
    Stats,
    /// Its processes.
    Processes,
    /// What its machine has counted; answered with [`Answer::Counters`].
    Counters,
    /// Has its memory limit killed something?
    OomKilled,
    /// Answer [`Answer::Oom`] each time that its memory limit killed something, as long as it lives.
    Events,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// To [`Ask::Status`].
    Status(State),
    /// To [`Ask::OomKilled`].
    OomKilled(bool),
    /// What the agent replied.
    Done(Reply),
    /// Why not.
    Failed(Failure),
    /// The process of an exec runs, or a container that joined waits for its start; its main stream and its standard error, as far as wanted, come with this as descriptors.
    Started,
    /// The process of an exec, or a container that joined, ended.
    Exited {
        /// How.
        status: ExitStatus,
        /// Bytes that it had written to its main stream and its standard error.
        written: [u64; 2],
    },
    /// Nothing is left of a container that had joined: its disks and files are the caller's again.
    Gone {
        /// Its memory limit had killed one of its processes.
        oom_killed: bool,
    },
    /// The memory limit killed a process.
    Oom,
    /// What the machine has counted.
    Counters(Box<Counters>),
}

/// States of a container whose monitor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It is being made.
    Creating,
    /// Its process waits for the start.
    Created,
    /// The program runs.
    Running,
    /// It is frozen.
    Paused,
    /// The program has ended.
    Stopped,
}

/// The last word of a monitor to the process that made it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The container waits for its start.
    Created {
        /// For whoever reaches it later.
        record: Box<crate::sandbox::vm::Record>,
        /// What the user should know.
        warnings: Vec<String>,
        /// The machine could not go on from its template, but could boot: the template is of no use.
        unfit: bool,
    },
    /// It could not be made, and nothing is left of it.
    Failed(Failure),
}
