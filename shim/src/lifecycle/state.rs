//! What is kept of a container, and what is told of it.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::sandbox::{Isolation, Record, Status};

/// The version of the runtime specification that states are told in.
pub(super) const OCI_VERSION: &str = "1.2.0";

/// The state file: what does not change, and how the sandbox is reached.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub(super) id: String,
    pub(super) isolation: Isolation,
    /// Absolute.
    pub(super) bundle: PathBuf,
    /// Absolute.
    pub(super) rootfs: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    /// `linux.cgroupsPath`, for what a killed maker leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cgroups_path: Option<String>,
    /// The configuration has `poststart` hooks; else it need not be read for them.
    #[serde(default)]
    pub(super) poststart: bool,
    /// The configuration has `poststop` hooks.
    #[serde(default)]
    pub(super) poststop: bool,
    /// Absent until the container is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sandbox: Option<Record>,
}

/// A container's state as tools get it (OCI runtime-spec, runtime.md, "State"), with runc's additions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciState {
    /// The version of the specification that this complies with.
    pub oci_version: &'static str,
    /// The container.
    pub id: String,
    /// Its first process on the host; 0 when it has stopped.
    pub pid: i32,
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: &'static str,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The root file system's absolute path.
    pub rootfs: PathBuf,
    /// When it was made (RFC 3339).
    pub created: String,
    /// Those of the configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Who made it; empty where nobody looked.
    pub owner: String,
    /// The user id of who made it.
    #[serde(skip)]
    pub owner_id: u32,
}

impl State {
    pub(super) fn told(&self, status: Status, pid: i32, owner_id: u32) -> OciState {
        OciState {
            oci_version: OCI_VERSION,
            id: self.id.clone(),
            pid: if status == Status::Stopped { 0 } else { pid },
            status: status.name(),
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created.clone(),
            annotations: self.annotations.clone(),
            owner: String::new(),
            owner_id,
        }
    }
}
