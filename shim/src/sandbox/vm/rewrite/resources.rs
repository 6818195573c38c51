//! Limits (config-linux.md, "Control groups"): they are kept by the guest's kernel, except those that speak of things that
//! only the host has.

use serde_json::{Map, Value};

use super::{RewriteError, object};

/// Properties that name the host's devices, processors or controllers: parent (empty: `linux.resources` itself), key, why.
const OF_THE_HOST: [(&str, &str, &str); 15] = [
    ("cpu", "cpus", "they are counted for the machine's virtual CPUs"),
    ("cpu", "mems", "the machine has one memory node"),
    ("memory", "swap", "the guest has no swap"),
    ("memory", "swappiness", "the guest has no swap"),
    ("memory", "kernel", "the guest counts its kernel's memory in the limit"),
    ("memory", "kernelTCP", "the guest counts its kernel's memory in the limit"),
    ("memory", "useHierarchy", "the guest's cgroups always have it"),
    ("blockIO", "weightDevice", "the devices are the host's"),
    ("blockIO", "throttleReadBpsDevice", "the devices are the host's"),
    ("blockIO", "throttleWriteBpsDevice", "the devices are the host's"),
    ("blockIO", "throttleReadIOPSDevice", "the devices are the host's"),
    ("blockIO", "throttleWriteIOPSDevice", "the devices are the host's"),
    ("", "network", "the traffic is the host's"),
    ("", "rdma", "the devices are the host's"),
    ("", "hugepageLimits", "the guest has no huge pages of its own"),
];

pub(super) fn rewrite(
    linux: &mut Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<(), RewriteError> {
    match object(linux, "resources", "linux.resources")? {
        Some(resources) => guest_resources(resources, notes),
        None => Ok(()),
    }
}

/// Takes out of `linux.resources` what has no meaning in the guest.
///
/// # Errors
/// [`RewriteError::Malformed`].
pub fn guest_resources(
    resources: &mut Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<(), RewriteError> {
    for (parent, key, why) in OF_THE_HOST {
        let removed = if parent.is_empty() {
            resources.remove(key)
        } else {
            let field = format!("linux.resources.{parent}");
            object(resources, parent, &field)?.and_then(|object| object.remove(key))
        };
        let said = match &removed {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Object(object)) => !object.is_empty(),
            Some(_) => true,
        };
        if said {
            let dot = if parent.is_empty() { "" } else { "." };
            notes.push(format!("linux.resources.{parent}{dot}{key} is left out: {why}"));
        }
    }
    Ok(())
}
