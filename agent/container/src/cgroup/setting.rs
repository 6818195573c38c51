//! What `linux.resources` says as control files and what to write into them.

use std::{borrow::Cow, fmt};

use super::{Version, cpu, cpuset, hugetlb, io, memory, network, pids, rdma, unified};
use crate::{error::Error, spec::Resources};

/// A value for a control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller whose file it is; empty for the files that every group of version 2 has.
    pub(super) controller: &'static str,
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
    pub(super) missing: Missing,
}

/// What a kernel without the file means for the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// It cannot be kept.
    Refuse,
    /// It is kept anyway: a kernel that does not count something does not have it.
    Holds,
    /// It is no limit but a wish; the user is told that it is left out.
    Warn,
    /// This file takes this value instead.
    Instead(&'static str, String),
}

/// All settings, in the order in which they are written, and what was left out.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) list: Vec<Setting>,
    pub(super) warnings: Vec<String>,
}

impl Settings {
    /// A limit. The controller is the file's first word.
    pub(super) fn limit(&mut self, file: &'static str, value: impl fmt::Display) {
        self.or(file, value, Missing::Refuse);
    }

    /// The same, with what a kernel without the file means.
    pub(super) fn or(&mut self, file: &'static str, value: impl fmt::Display, missing: Missing) {
        let controller = file.split('.').next().unwrap_or_default();
        self.list.push(Setting {
            controller,
            file: file.into(),
            value: value.to_string(),
            missing,
        });
    }

    /// A wish that this version of cgroups does not know.
    pub(super) fn unknown(&mut self, property: &str, version: Version) {
        let version = if version == Version::V1 { 1 } else { 2 };
        self.warnings.push(format!(
            "linux.resources.{property} is ignored: cgroup v{version} has no such setting"
        ));
    }
}

/// The settings of all controllers. `version` says of which version a controller is; version 1's `blkio` goes by the name
/// that version 2 gave it, `io`.
///
/// # Errors
/// [`Error::Invalid`] for a limit that cannot be.
pub(super) fn of(
    resources: &Resources,
    version: impl Fn(&str) -> Version,
) -> Result<Settings, Error> {
    let mut all = Settings::default();
    if let Some(memory) = &resources.memory {
        memory::settings(memory, version("memory"), &mut all)?;
    }
    if let Some(cpu) = &resources.cpu {
        cpu::settings(cpu, version("cpu"), &mut all)?;
        cpuset::settings(cpu, &mut all);
    }
    if let Some(pids) = resources.pids {
        pids::settings(pids, &mut all);
    }
    if let Some(io) = &resources.block_io {
        io::settings(io, version("io"), &mut all)?;
    }
    hugetlb::settings(&resources.hugepage_limits, version("hugetlb"), &mut all)?;
    if let Some(network) = &resources.network {
        network::settings(network, &mut all)?;
    }
    rdma::settings(&resources.rdma, &mut all)?;
    unified::settings(&resources.unified, version, &mut all)?;
    Ok(all)
}

/// Settings as `file=value`, for tests.
#[cfg(test)]
pub(super) fn lines(resources: &str, version: Version) -> Result<Vec<String>, String> {
    let resources = serde_json::from_str(resources).unwrap();
    let all = of(&resources, |_| version).map_err(|error| error.to_string())?;
    let settings = all.list.iter().map(|one| format!("{}={}", one.file, one.value));
    Ok(settings.chain(all.warnings.iter().map(|line| format!("warning: {line}"))).collect())
}
