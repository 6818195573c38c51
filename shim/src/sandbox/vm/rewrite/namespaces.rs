//! Namespaces (config-linux.md, "Namespaces"): the network is the host's side of the machine, all others are the guest's.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{RewriteError, malformed, take_list, unsupported};

/// The network namespace of the host that the machine's processes belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The caller's.
    Host,
    /// A new one.
    New,
    /// The one at this path.
    Path(PathBuf),
}

/// Takes the network out and refuses namespaces of the host: the guest has another kernel.
pub(super) fn rewrite(linux: &mut Map<String, Value>) -> Result<Network, RewriteError> {
    let mut network = None;
    let mut kept = Vec::new();
    for (index, namespace) in take_list(linux, "namespaces")?.into_iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        let kind = namespace.get("type").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| malformed(&format!("{field}.type"), "text is needed"))?;
        let path = match namespace.get("path") {
            None | Some(Value::Null) => None,
            Some(Value::String(path)) if path.is_empty() => None,
            Some(Value::String(path)) => Some(PathBuf::from(path)),
            Some(_) => return Err(malformed(&format!("{field}.path"), "text is needed")),
        };
        match (kind, path) {
            ("network", _) if network.is_some() => {
                return Err(malformed(&field, "only one network namespace can be"));
            }
            ("network", path) => network = Some(path.map_or(Network::New, Network::Path)),
            (_, None) => kept.push(namespace),
            (kind, Some(path)) => {
                return Err(unsupported(
                    format!("{field}.path"),
                    format!(
                        "a microVM cannot join the {kind} namespace {} of the host's kernel",
                        path.display()
                    ),
                ));
            }
        }
    }
    if kept.iter().any(|namespace| namespace.get("type").is_some_and(|kind| kind == "user")) {
        // The kernel lets its root mount sysfs only where the network is its own (sysfs_init_fs_context in fs/sysfs/mount.c).
        kept.push(serde_json::json!({ "type": "network" }));
    }
    linux.insert("namespaces".into(), Value::Array(kept));
    Ok(network.unwrap_or(Network::Host))
}
