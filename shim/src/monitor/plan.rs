//! What a monitor is to do, computed before it exists.

use std::{path::PathBuf, time::Duration};

use bulkhead_container::{hooks::State, spec::Hooks};
use bulkhead_protocol::Root;
use bulkhead_vmm::api::VmConfig;
use serde_json::Value;

use crate::sandbox::vm::rewrite::Network;

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
    /// The VMM's program.
    pub(crate) vmm: PathBuf,
    /// The machine.
    pub(crate) machine: VmConfig,
    /// The host's network namespace that it belongs to.
    pub(crate) network: Network,
    /// The program has a terminal, which is this process's standard input and output.
    pub(crate) terminal: bool,
    /// The guest's file systems are on the host: what it still holds must be written in the end.
    pub(crate) sync: bool,
    /// How long the guest may take to answer.
    pub(crate) boot_timeout: Duration,
    /// When the container was asked for (`CLOCK_MONOTONIC`, nanoseconds).
    pub(crate) requested: u64,
    /// What was left out of the specification.
    pub(crate) notes: Vec<String>,
}
