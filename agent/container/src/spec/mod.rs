//! An OCI runtime specification (v1.2, `config.json`) for Linux. Properties that it does not have are skipped, as it wants
//! it. Own types, because the complete ones and their parser weigh 2 MiB in a program that every guest carries.

mod hooks;
mod linux;
mod process;
mod resources;
mod seccomp;

pub use hooks::{Hook, Hooks};
pub use linux::{
    Device, DeviceType, IdMapping, IntelRdt, Linux, Namespace, NamespaceType, Personality,
    TimeOffset,
};
pub use process::{
    Capabilities, ConsoleSize, CpuAffinity, IoPriority, IoPriorityClass, Process, Rlimit,
    Scheduler, User,
};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma,
    Resources, Throttle, WeightDevice,
};
pub use seccomp::{Action, Arg, Flag, Operator, Seccomp, SyscallRule};
use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A container (config.md).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The specification's version, `1.2.0`.
    pub oci_version: String,
    /// The root file system.
    #[serde(deserialize_with = "object")]
    pub root: Option<Root>,
    /// Mounts beyond the root, in order.
    #[serde(deserialize_with = "or_default")]
    pub mounts: Vec<Mount>,
    /// The container's process.
    #[serde(deserialize_with = "object")]
    pub process: Option<Process>,
    /// The host name in the UTS namespace.
    pub hostname: Option<String>,
    /// The domain name in the UTS namespace.
    pub domainname: Option<String>,
    /// Programs that are run at certain moments.
    #[serde(deserialize_with = "object")]
    pub hooks: Option<Hooks>,
    /// Anything, for whoever reads it.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[serde(deserialize_with = "object")]
    pub linux: Option<Linux>,
}

impl Spec {
    /// Whether it names a namespace of this type, new or to be joined.
    #[must_use]
    pub fn has_namespace(&self, kind: NamespaceType) -> bool {
        self.namespaces().any(|namespace| namespace.kind == kind)
    }

    /// Whether it names a new one.
    #[must_use]
    pub fn makes_namespace(&self, kind: NamespaceType) -> bool {
        self.namespaces().any(|namespace| namespace.kind == kind && namespace.path.is_none())
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.linux.iter().flat_map(|linux| &linux.namespaces)
    }
}

/// An object or nothing. By itself, a structure would also take a list of its fields' values.
fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Object(PhantomData))
}

/// `null` is what Go writes for an empty list or map.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The root file system (config.md, "Root").
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Root {
    /// The directory, absolute or relative to the bundle. The engine is told where it is by its caller.
    pub path: String,
    /// The root is mounted read-only.
    pub readonly: bool,
}

/// A mount (config.md, "Mounts").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where, in the container.
    pub destination: String,
    /// The file system's type.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// The device, or the directory or file of a bind mount.
    #[serde(default)]
    pub source: Option<String>,
    /// Options, in mount(8)'s words.
    #[serde(default, deserialize_with = "or_default")]
    pub options: Vec<String>,
    /// User ids of an id-mapped mount.
    #[serde(default, deserialize_with = "or_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of an id-mapped mount.
    #[serde(default, deserialize_with = "or_default")]
    pub gid_mappings: Vec<IdMapping>,
}
