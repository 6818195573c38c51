//! Programs of one thread that make containers and processes for the shim: what they make begins as a copy of them (fork(2)), and only
//! with one thread is such a copy whole. A helper is this program with the streams of the container; its request is a file that it may
//! read again after it was executed anew, its answer goes over a socket, with the terminal's master if there is one. What it has made
//! becomes the shim's child when it ends, because the shim is a subreaper.

mod call;
mod run;

use std::path::PathBuf;

use bulkhead::{choice::Choice, sandbox::Mount};
pub(crate) use call::{Helpers, Made, Streams};
pub(crate) use run::{run, start};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::refusal::Refusal;

/// The largest request and the largest answer.
const MAX_REQUEST: u64 = 32 << 20;
const MAX_ANSWER: u64 = 1 << 20;

/// What a helper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Where the states of containers are.
    pub(crate) root: PathBuf,
    /// The container.
    pub(crate) id: String,
    pub(crate) call: Call,
}

/// With the container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Call {
    /// Make it.
    Create(Create),
    /// Run one more process in it (OCI runtime-spec, config.md, "Process").
    Exec(Value),
    /// Let its process execute its program, and run what hooks there are for that.
    Start,
    /// Remove it; also one that runs.
    Delete {
        /// One that runs, too.
        force: bool,
    },
}

/// How a container is made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) bundle: PathBuf,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) choice: Choice,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) systemd_cgroup: bool,
    /// The descriptor of a pipe whose other end is the shim's.
    pub(crate) owner: i32,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done {
        /// The process that was made, if one was.
        pid: Option<i32>,
        /// Lines for the administrator.
        warnings: Vec<String>,
    },
    Refused(Refusal),
}
