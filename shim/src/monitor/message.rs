//! What other processes ask a monitor at its socket, and its answers: frames as the agent's (a length and JSON), from the
//! same user only. A connection's requests are answered one after the other. One that asked for [`Ask::Exec`] belongs to
//! that process until it ends: when it closes, the process is killed.

use bulkhead_protocol::{ExitStatus, Failure, Reply, WindowSize};
use bulkhead_vmm::api::Counters;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The socket's name in the state directory.
pub(crate) const SOCKET: &str = "monitor.sock";
/// The largest frame in either direction: an exec's process with its environment.
pub(crate) const MAX_FRAME: usize = bulkhead_protocol::MAX_TO_AGENT;

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
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
    /// The process of an exec runs; its main stream and its standard error, as far as wanted, come with this as descriptors.
    Started,
    /// The process of an exec ended.
    Exited {
        /// How.
        status: ExitStatus,
        /// Bytes that it had written to its main stream and its standard error.
        written: [u64; 2],
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
        record: crate::sandbox::vm::Record,
        /// What the user should know.
        warnings: Vec<String>,
        /// The machine could not go on from its template, but could boot: the template is of no use.
        unfit: bool,
    },
    /// It could not be made, and nothing is left of it.
    Failed(Failure),
}
