//! Namespaces (config-linux.md, "Namespaces"): the network is the host's side of the machine, all others are the guest's.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{RewriteError, Role, malformed, take_list, unsupported};

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

/// Types of namespaces that a container shares with another one of its pod, and the process of the host that stands for that; absent: the sandbox's.
pub type Shared = Vec<(String, Option<i32>)>;

/// Takes the network out and refuses namespaces of the host: the guest has another kernel. Those that a container of a pod joins are another
/// one's in the same guest; returns their types and the processes that stand for those.
pub(super) fn rewrite(
    linux: &mut Map<String, Value>,
    role: Role<'_>,
    notes: &mut Vec<String>,
) -> Result<(Network, Shared), RewriteError> {
    let mut network = None;
    let (mut kept, mut shared) = (Vec::new(), Vec::new());
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
        let joins = matches!(role, Role::Member(_)) && path.is_some();
        match (kind, path) {
            ("network", _) if network.is_some() => {
                return Err(malformed(&field, "only one network namespace can be"));
            }
            ("network", path) => {
                if joins {
                    // Whatever its path: a pod has one network.
                    shared.push((kind.to_owned(), None));
                } else if matches!(role, Role::Member(_)) {
                    // The guest's own is the pod's.
                    kept.push(json!({ "type": kind }));
                }
                network = Some(path.map_or(Network::New, Network::Path));
            }
            (_, None) => kept.push(namespace),
            ("ipc" | "uts" | "pid" | "user", Some(path)) if joins => {
                shared.push((kind.to_owned(), process_of(&path)));
            }
            // Some engines make a pod's namespaces on the host, before its sandbox.
            ("ipc" | "uts" | "user", Some(path)) if role == Role::Sandbox => {
                notes.push(format!(
                    "{field}.path: the pod's is in its microVM, not {}",
                    path.display()
                ));
                kept.push(json!({ "type": kind }));
            }
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
    let has = |wanted: &str| {
        kept.iter().any(|namespace| namespace.get("type").is_some_and(|kind| kind == wanted))
    };
    if has("user") && !has("network") {
        // The kernel lets its root mount sysfs only where the network is its own (sysfs_init_fs_context in fs/sysfs/mount.c).
        kept.push(json!({ "type": "network" }));
    }
    linux.insert("namespaces".into(), Value::Array(kept));
    Ok((network.unwrap_or(Network::Host), shared))
}

/// The process of a path `/proc/PID/ns/…`.
fn process_of(path: &Path) -> Option<i32> {
    let rest = path.to_str()?.strip_prefix("/proc/")?;
    let (pid, rest) = rest.split_once('/')?;
    rest.starts_with("ns/").then(|| pid.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_a_namespace_is_in_its_path() {
        for (path, pid) in [
            ("/proc/77/ns/ipc", Some(77)),
            ("/proc/self/ns/ipc", None),
            ("/run/ipcns/x", None),
            ("/proc/77/root/ns", None),
        ] {
            assert_eq!(process_of(Path::new(path)), pid, "{path}");
        }
    }

    #[test]
    fn members_share_what_they_would_join() {
        let list = json!({ "namespaces": [{ "type": "mount" }, { "type": "pid" },
            { "type": "network", "path": "/run/netns/x" }, { "type": "ipc", "path": "/proc/7/ns/ipc" },
            { "type": "uts", "path": "/run/utsns/x" }, { "type": "user", "path": "/proc/7/ns/user" }] });
        let Value::Object(mut linux) = list else { panic!() };
        let mut sandbox = linux.clone();
        assert_eq!(rewrite(&mut sandbox, Role::Sandbox, &mut Vec::new()).unwrap().1, []);
        assert_eq!(sandbox["namespaces"][4], json!({ "type": "user" }));
        assert!(rewrite(&mut linux.clone(), Role::Alone, &mut Vec::new()).is_err());
        let (network, shared) = rewrite(&mut linux, Role::Member("x"), &mut Vec::new()).unwrap();
        assert_eq!(network, Network::Path("/run/netns/x".into()));
        let expected = [("network", None), ("ipc", Some(7)), ("uts", None), ("user", Some(7))];
        assert_eq!(shared, expected.map(|(kind, pid)| (kind.to_owned(), pid)));
        assert_eq!(linux["namespaces"], json!([{ "type": "mount" }, { "type": "pid" }]));
        let Value::Object(mut linux) = json!({ "namespaces": [{ "type": "network" }] }) else {
            panic!()
        };
        let (network, shared) = rewrite(&mut linux, Role::Member("x"), &mut Vec::new()).unwrap();
        assert_eq!((network, shared), (Network::New, Vec::new()));
        assert_eq!(linux["namespaces"], json!([{ "type": "network" }]));
        let mount = json!({ "namespaces": [{ "type": "mount", "path": "/proc/7/ns/mnt" }] });
        let Value::Object(mut linux) = mount else { panic!() };
        assert!(rewrite(&mut linux, Role::Member("x"), &mut Vec::new()).is_err());
    }
}
