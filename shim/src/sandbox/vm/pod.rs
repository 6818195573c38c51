//! Which containers belong to which pod: what the CRI plugins of containerd and CRI-O say in annotations.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use super::{SandboxError, record::Pod, remains};

/// What containerd's CRI plugin and CRI-O call a container's kind, and its sandbox.
const KEYS: [[&str; 2]; 2] = [
    ["io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"],
    ["io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"],
];

/// What a pod may use in all, as containerd's CRI plugin says it of its sandbox, and where a container's specification has that.
const LIMITS: [(&str, &str, &str); 3] = [
    ("io.kubernetes.cri.sandbox-memory", "memory", "limit"),
    ("io.kubernetes.cri.sandbox-cpu-quota", "cpu", "quota"),
    ("io.kubernetes.cri.sandbox-cpu-period", "cpu", "period"),
];

/// Where CRI-O says it, as JSON of the CRI's `LinuxContainerResources`: its newer name and its older one.
const RESOURCES: [&str; 2] =
    ["pod-linux-resources.crio.io", "io.kubernetes.cri-o.PodLinuxResources"];
/// Fields of that, and where a container's specification has them.
const FIELDS: [(&str, &str, &str); 3] = [
    ("memory_limit_in_bytes", "memory", "limit"),
    ("cpu_quota", "cpu", "quota"),
    ("cpu_period", "cpu", "period"),
];

/// A container's place in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// In none.
    None,
    /// It is a pod's sandbox.
    Sandbox,
    /// It joins the sandbox of this id.
    Member(&'a str),
}

/// The place that a container's annotations say it has.
pub(super) fn place(annotations: &BTreeMap<String, String>) -> Result<Place<'_>, SandboxError> {
    for [kind, sandbox] in KEYS {
        match annotations.get(kind).map(String::as_str) {
            Some("sandbox") => return Ok(Place::Sandbox),
            Some("container") => {
                let id = annotations.get(sandbox).map(String::as_str).unwrap_or_default();
                if id.is_empty() || id.contains('/') || matches!(id, "." | "..") {
                    return Err(SandboxError::Invalid(format!(
                        "annotation {sandbox} is {id:?}; the id of the pod's sandbox is needed"
                    )));
                }
                return Ok(Place::Member(id));
            }
            _ => {}
        }
    }
    Ok(Place::None)
}

/// A specification with the limits of the whole pod, from which its machine's size follows. What is no number says nothing.
pub(super) fn limits(annotations: &BTreeMap<String, String>) -> Value {
    let mut resources = json!({ "memory": {}, "cpu": {} });
    let mut note = |parent: &str, key: &str, number: Option<i64>| {
        if let Some(number) = number.filter(|number| *number > 0) {
            resources[parent][key] = number.into();
        }
    };
    let said = RESOURCES.iter().find_map(|name| annotations.get(*name));
    let said = said.and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default();
    for (name, parent, key) in FIELDS {
        note(parent, key, said.get(name).and_then(Value::as_i64));
    }
    for (name, parent, key) in LIMITS {
        note(parent, key, annotations.get(name).and_then(|text| text.parse().ok()));
    }
    json!({ "linux": { "resources": resources } })
}

/// The living pod whose sandbox has this id and keeps its state beside `dir`, the state directory of a container that joins it.
pub(super) fn find(sandbox: &str, dir: &Path, container: &str) -> Result<Pod, SandboxError> {
    let directory = dir.parent().unwrap_or(dir).join(sandbox);
    let monitor = remains(&directory)?.map(|record| record.monitor);
    match monitor.filter(|monitor| monitor.is_alive()) {
        Some(monitor) => Ok(Pod { directory, monitor, container: container.to_owned() }),
        None => Err(SandboxError::State(format!(
            "the pod's sandbox {sandbox} has no running microVM that container {container} could join"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::shape, *};

    #[test]
    fn annotations_say_the_place() {
        let of = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        for [kind, sandbox] in KEYS {
            assert_eq!(place(&of(&[(kind, "sandbox"), (sandbox, "a")])).unwrap(), Place::Sandbox);
            let member = of(&[(kind, "container"), (sandbox, "a")]);
            assert_eq!(place(&member).unwrap(), Place::Member("a"));
            assert_eq!(place(&of(&[(kind, "other"), (sandbox, "a")])).unwrap(), Place::None);
            for bad in ["", "..", "a/b"] {
                assert!(place(&of(&[(kind, "container"), (sandbox, bad)])).is_err(), "{bad}");
            }
            assert!(place(&of(&[(kind, "container")])).is_err());
        }
        assert_eq!(place(&of(&[])).unwrap(), Place::None);
    }

    #[test]
    fn a_pods_limits_are_its_machines_size() {
        let [memory, quota, period] = LIMITS.map(|(name, ..)| name.to_owned());
        let of = |pairs: [(String, &str); 3]| {
            limits(&pairs.map(|(name, value)| (name, value.to_owned())).into())
        };
        let limits = of([
            (memory.clone(), "104857600"),
            (quota.clone(), "150000"),
            (period.clone(), "100000"),
        ]);
        assert_eq!(shape::memory_mib(&limits, 256, 4096), 120);
        assert_eq!(shape::vcpus(&limits), 2);
        let limits = of([(memory, "0"), (quota, "-1"), (period, "x")]);
        assert_eq!((shape::memory_mib(&limits, 256, 4096), shape::vcpus(&limits)), (256, 1));
    }

    #[test]
    fn cri_o_says_a_pods_limits_in_json() {
        let text = r#"{"cpu_period":100000,"cpu_quota":150000,"cpu_shares":2,"memory_limit_in_bytes":104857600}"#;
        for name in RESOURCES {
            let of = |text: &str| limits(&[(name.to_owned(), text.to_owned())].into());
            let limits = of(text);
            assert_eq!((shape::memory_mib(&limits, 256, 4096), shape::vcpus(&limits)), (120, 2));
            for nothing in ["null", "", "{}", "[1]", r#"{"memory_limit_in_bytes":"1"}"#] {
                let limits = of(nothing);
                let shape = (shape::memory_mib(&limits, 256, 4096), shape::vcpus(&limits));
                assert_eq!(shape, (256, 1), "{nothing}");
            }
        }
    }

    #[test]
    fn a_pod_that_is_not_there_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let error = find("pause", &dir.path().join("c"), "c").unwrap_err().to_string();
        assert!(error.contains("pause") && error.contains("running microVM"), "{error}");
    }
}
