//! Control groups: a container's limits, what it uses, how all of its processes are found, frozen and ended. Version 2
//! (Documentation/admin-guide/cgroup-v2.rst) in a guest and on newer hosts, version 1 (cgroup-v1/) with a hierarchy for
//! each controller on older ones, and hosts that have both. Each controller has a file with the settings and the
//! statistics of both versions.

mod apply;
mod cpu;
mod cpuset;
mod create;
mod device;
mod device_list;
mod device_program;
mod directory;
mod freezer;
mod group;
mod headroom;
mod hierarchy;
mod hugetlb;
mod io;
mod memory;
mod network;
mod oom;
mod path;
mod pids;
mod processes;
mod rdma;
mod remove;
mod setting;
mod stats;
mod table;
mod unified;

pub use create::Cgroups;
pub(crate) use device::DeviceFilter;
pub use group::{Cgroup, CgroupRecord, Placed};
pub use headroom::Headroom;
pub use oom::OomEvents;
use serde::{Deserialize, Serialize};

use crate::{error::Error, spec::Resources};

/// The version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One hierarchy for one or a few controllers.
    V1,
    /// One hierarchy for all.
    V2,
}

/// Some limit is wanted.
pub(crate) fn limits_anything(resources: &Resources) -> Result<bool, Error> {
    Ok(!setting::of(resources, |_| Version::V2)?.list.is_empty())
}

#[cfg(test)]
mod host_tests;
