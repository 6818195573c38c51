//! What a monitor is to do, computed before it exists.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf, time::Duration};

use bulkhead_container::{hooks::State, spec::Hooks};
use bulkhead_protocol::{Memory, Root};
use bulkhead_vmm::api::VmConfig;
use serde_json::Value;

use super::core::VSOCK_DIRECTORY;
use crate::{
    sandbox::vm::{
        Pod,
        admission::Admission,
        rewrite::{Network, Owners, Shared},
    },
    template::Key,
};

/// A template and a machine that is its clone.
#[derive(Debug)]
pub(crate) struct Template {
    /// Its name.
    pub(crate) key: Key,
    /// What its agent knows.
    pub(crate) nonce: String,
    /// The machine that goes on from it.
    pub(crate) machine: VmConfig,
    /// A machine that boots is not wanted instead.
    pub(crate) required: bool,
}

/// A container and its machine.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The container's id.
    pub(crate) id: String,
    /// Its bundle, as its configuration's hooks are told of it.
    pub(crate) bundle: String,
    /// Its state directory.
    pub(crate) directory: PathBuf,
    /// The hooks that are run on the host.
    pub(crate) hooks: Hooks,
    /// What they get of it.
    pub(crate) state: State,
    /// The host's specification.
    pub(crate) host: Value,
    /// The guest's.
    pub(crate) guest: Value,
    /// The container's root in the guest.
    pub(crate) root: Root,
    /// The upper directory that a guest's overlayfs writes to and that the host's is to understand afterwards.
    pub(crate) upper: Option<PathBuf>,
    /// The pod that it joins; absent: it has a machine of its own.
    pub(crate) pod: Option<Pod>,
    /// Other owners of what it mounts from the host, by the names of the shares' entries.
    pub(crate) owners: BTreeMap<String, Owners>,
    /// Namespaces that it shares with others of its pod.
    pub(crate) shared: Shared,
    /// File systems in the guest's memory that its pod shares.
    pub(crate) memory: Vec<Memory>,
    /// The VMM's program.
    pub(crate) vmm: PathBuf,
    /// The machine that boots.
    pub(crate) machine: VmConfig,
    /// What it is a clone of, if it does not boot.
    pub(crate) template: Option<Template>,
    /// The host's network namespace that it belongs to.
    pub(crate) network: Network,
    /// The program has a terminal, which is this process's standard input and output.
    pub(crate) terminal: bool,
    /// The guest's file systems are on the host: what it still holds must be written in the end.
    pub(crate) sync: bool,
    /// Whether there is memory for the machine.
    pub(crate) admission: Admission,
    /// The VMM's score when the host has no memory left.
    pub(crate) oom_score: i32,
    /// How long the guest may take to answer.
    pub(crate) boot_timeout: Duration,
    /// When the container was asked for (`CLOCK_MONOTONIC`, nanoseconds).
    pub(crate) requested: u64,
    /// What was left out of the specification.
    pub(crate) notes: Vec<String>,
    /// Hangs up when the container's owner is gone, which ends it.
    pub(crate) owner: Option<OwnedFd>,
}

impl Plan {
    /// The directory of the machine's sockets.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.directory.join(VSOCK_DIRECTORY)
    }
}
