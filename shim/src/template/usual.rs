//! What most containers are like: a template's agent makes ahead what is made of these specifications.

use std::path::Path;

use serde_json::{Value, json};

use super::{TemplateError, make::making};
use crate::{
    container::spec,
    sandbox::vm::rewrite::{self, Role, ThisHost},
    settings::Isolation,
};

/// Destination, type, source, options.
type Mount = (&'static str, &'static str, &'static str, &'static str);

/// What an engine writes by default. Bind mounts are not here: none of them is made ahead.
struct Engine {
    mounts: &'static [Mount],
    masked: &'static [&'static str],
    read_only: &'static [&'static str],
    /// A share of the processors' time.
    shares: Option<u64>,
}

const PROC: Mount = ("/proc", "proc", "proc", "nosuid,noexec,nodev");
const DEV: Mount = ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k");
const PTS: Mount =
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5");
const SHM: Mount = ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k");
const MQUEUE: Mount = ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev");
const SYS: Mount = ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro");
const CGROUP: Mount = ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro");

/// Beside docker's, which ours are.
const ENGINES: [Engine; 3] = [
    // podman 4.
    Engine {
        mounts: &[
            PROC,
            ("/dev", "tmpfs", "tmpfs", "nosuid,noexec,strictatime,mode=755,size=65536k"),
            SYS,
            PTS,
            MQUEUE,
            SHM,
            ("/sys/fs/cgroup", "cgroup", "cgroup", "rprivate,nosuid,noexec,nodev,relatime,ro"),
        ],
        masked: &[
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/fs/selinux",
            "/sys/dev/block",
        ],
        read_only: &[
            "/proc/asound",
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ],
        shares: None,
    },
    // `runc spec`, `bulkhead-oci spec`.
    Engine {
        mounts: &[("/proc", "proc", "proc", ""), DEV, PTS, SHM, MQUEUE, SYS, CGROUP],
        masked: spec::MASKED,
        read_only: spec::READ_ONLY,
        shares: None,
    },
    // `ctr run`; a pod's sandbox of the CRI plugin has all of this but the last.
    Engine {
        mounts: &[
            PROC,
            DEV,
            PTS,
            SHM,
            MQUEUE,
            SYS,
            ("/run", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ],
        masked: spec::MASKED,
        read_only: spec::READ_ONLY,
        shares: Some(1024),
    },
];

/// Specifications for a guest, each with a cgroup namespace and without one: engines leave it out where the host has control
/// groups of version 1. What one has in common with another is made once.
pub(super) fn specs() -> Result<Vec<Value>, TemplateError> {
    let own = own()?;
    let others = ENGINES.iter().map(|engine| engine.of(&own)).collect::<Vec<_>>();
    let all = std::iter::once(own).chain(others);
    Ok(all.flat_map(|spec| [spec.clone(), without_cgroup_namespace(spec)]).collect())
}

fn own() -> Result<Value, TemplateError> {
    let failed = |error: &dyn std::fmt::Display| making(format!("the usual container: {error}"));
    let command = ["sh".to_owned()];
    let wishes = spec::Wishes {
        command: &command,
        hostname: "localhost",
        isolation: Isolation::Vm,
        cgroup: "/bulkhead/template",
        ..spec::Wishes::default()
    };
    let spec = spec::build(&Default::default(), &wishes).map_err(|error| failed(&error))?;
    let spec = serde_json::to_value(spec).map_err(|error| failed(&error))?;
    let guest = rewrite::rewrite(&spec, Path::new("/"), None, Role::Alone, &ThisHost);
    Ok(guest.map_err(|error| failed(&error))?.spec)
}

impl Engine {
    fn of(&self, own: &Value) -> Value {
        let mut spec = own.clone();
        let mounts = self.mounts.iter().map(|(destination, kind, source, options)| {
            let options: Vec<_> = options.split(',').filter(|word| !word.is_empty()).collect();
            json!({ "destination": destination, "type": kind, "source": source, "options": options })
        });
        spec["mounts"] = mounts.collect();
        spec["linux"]["maskedPaths"] = json!(self.masked);
        spec["linux"]["readonlyPaths"] = json!(self.read_only);
        if let Some(shares) = self.shares {
            spec["linux"]["resources"]["cpu"] = json!({ "shares": shares });
        }
        spec
    }
}

fn without_cgroup_namespace(mut spec: Value) -> Value {
    if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
        list.retain(|namespace| namespace["type"] != "cgroup");
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_containers_are_ones_that_a_guest_can_make() {
        let specs = specs().unwrap();
        assert!(specs.len() <= bulkhead_protocol::MAX_EXPECTED);
        for spec in &specs {
            assert!(spec["linux"]["namespaces"].as_array().is_some_and(|list| !list.is_empty()));
            assert!(spec["linux"].get("cgroupsPath").is_none());
        }
    }
}
