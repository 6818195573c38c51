//! Devices (config-linux.md, "Devices"): the guest has those of its own kernel and no other.

use serde_json::{Map, Value};

use super::{RewriteError, malformed, take_list};

/// Character devices of the guest's kernel: major, minor (`None`: any), node.
const CHARACTER: [(u64, Option<u64>, &str); 11] = [
    (1, Some(3), "/dev/null"),
    (1, Some(5), "/dev/zero"),
    (1, Some(7), "/dev/full"),
    (1, Some(8), "/dev/random"),
    (1, Some(9), "/dev/urandom"),
    (1, Some(11), "/dev/kmsg"),
    (5, Some(0), "/dev/tty"),
    (5, Some(1), "/dev/console"),
    (5, Some(2), "/dev/ptmx"),
    (10, Some(229), "/dev/fuse"),
    (136, None, "/dev/pts"),
];

/// The node of the guest that is the same device as one of the host.
pub(super) fn node_of_guest(block: bool, major: u32, minor: u32) -> Option<&'static str> {
    // A terminal of the host is not one of the guest.
    let (major, minor) = (u64::from(major), u64::from(minor));
    let known = CHARACTER.iter().find(|(a, b, _)| *a == major && *b == Some(minor));
    known.filter(|_| !block).map(|(_, _, node)| *node)
}

/// Keeps the nodes that mean the same in the guest. Another one's numbers would name whatever the guest has at them.
pub(super) fn rewrite(
    linux: &mut Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<(), RewriteError> {
    let mut kept = Vec::new();
    for (index, device) in take_list(linux, "devices")?.into_iter().enumerate() {
        let text = |key: &str| {
            device.get(key).and_then(Value::as_str).ok_or_else(|| {
                malformed(&format!("linux.devices[{index}].{key}"), "text is needed")
            })
        };
        let number = |key: &str| device.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (path, kind) = (text("path")?, text("type")?);
        let (major, minor) = (number("major"), number("minor"));
        let known = match kind {
            "p" => true,
            "c" | "u" => {
                CHARACTER.iter().any(|(a, b, _)| *a == major && b.is_none_or(|b| b == minor))
            }
            _ => false,
        };
        if known {
            kept.push(device);
        } else {
            notes.push(format!(
                "linux.devices[{index}]: {path} ({kind} {major}:{minor}) is left out: a microVM has no such device"
            ));
        }
    }
    if !kept.is_empty() {
        linux.insert("devices".into(), Value::Array(kept));
    }
    Ok(())
}
