//! Mounts: what is bound from the host becomes an entry of a share; the rest is the guest kernel's.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use bulkhead_container::spec::IdMapping;
use bulkhead_protocol::{MEMORY, Memory};
use bulkhead_vmm::api::ShareEntry;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    BINDS_TAG, Host, Kind, RewriteError, Role, SHARES, devices::node_of_guest, malformed, plain,
    unsupported,
};

/// The memory that the containers of a pod share as `/dev/shm`.
const SHM: &str = "shm";
/// More bind mounts than this are refused.
const MAX_BINDS: usize = 1024;

/// Mounts as the guest makes them, and the things of the host that they need.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) list: Vec<Value>,
    pub(super) entries: Vec<ShareEntry>,
    pub(super) owners: BTreeMap<String, Owners>,
    pub(super) memory: Vec<Memory>,
}

/// Other owners of a mount's files than those on their file system: what the guest sees instead (config.md, "Mounts", `uidMappings`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
    /// Also of what is mounted below.
    pub whole: bool,
}

/// A mount (config.md, "Mounts").
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mount {
    destination: String,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options: Option<Vec<String>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Rewrites them in their order.
pub(super) fn rewrite(
    mounts: Vec<Value>,
    bundle: &Path,
    role: Role<'_>,
    host: &impl Host,
    notes: &mut Vec<String>,
) -> Result<Mounts, RewriteError> {
    let mut done = Mounts::default();
    for (index, mount) in mounts.into_iter().enumerate() {
        let field = format!("mounts[{index}]");
        let mut mount: Mount =
            serde_json::from_value(mount).map_err(|error| malformed(&field, &error.to_string()))?;
        if mount.is_bind() {
            mount = bind(mount, &field, bundle, role, host, &mut done, notes)?;
        } else {
            no_host_disk(&mount, &field)?;
        }
        let value = serde_json::to_value(mount);
        done.list.push(value.map_err(|error| malformed(&field, &error.to_string()))?);
    }
    Ok(done)
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.iter().flatten().any(|other| other == option)
    }

    fn is_bind(&self) -> bool {
        self.kind.as_deref() == Some("bind") || self.has("bind") || self.has("rbind")
    }

    /// Takes out the maps of its owners: they are the host's to apply, which can be done for what a pod's machine is given while it runs.
    fn take_owners(
        &mut self,
        field: &str,
        source: &str,
        role: Role<'_>,
    ) -> Result<Option<Owners>, RewriteError> {
        let mut list = |name: &str| match self.rest.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(_) if !matches!(role, Role::Member(_)) => Err(unsupported(
                format!("{field}.{name}"),
                format!(
                    "{source} of the host cannot be mounted with other ids in a microVM, but by containers that join a pod"
                ),
            )),
            Some(map) => serde_json::from_value::<Vec<IdMapping>>(map)
                .map_err(|error| malformed(&format!("{field}.{name}"), &error.to_string())),
        };
        let (uids, gids) = (list("uidMappings")?, list("gidMappings")?);
        if uids.is_empty() && gids.is_empty() {
            return Ok(None);
        }
        let whole = self.has("ridmap");
        let options = self.options.iter_mut();
        options.for_each(|list| list.retain(|word| word != "idmap" && word != "ridmap"));
        Ok(Some(Owners { uids, gids, whole }))
    }

    /// What every bind mount's options say, the host's propagation aside.
    fn read_only(&self) -> bool {
        let last = self
            .options
            .iter()
            .flatten()
            .rfind(|option| matches!(option.as_str(), "ro" | "rw" | "rro" | "rrw"));
        last.is_some_and(|option| option.ends_with("ro"))
    }
}

fn bind(
    mut mount: Mount,
    field: &str,
    bundle: &Path,
    role: Role<'_>,
    host: &impl Host,
    done: &mut Mounts,
    notes: &mut Vec<String>,
) -> Result<Mount, RewriteError> {
    let named = mount.source.clone().filter(|source| !source.is_empty());
    let source =
        named.ok_or_else(|| malformed(&format!("{field}.source"), "a bind mount needs one"))?;
    let owners = mount.take_owners(field, &source, role)?;
    let found = host.look(&bundle.join(&source)).map_err(|error| RewriteError::Source {
        from: source.clone(),
        to: mount.destination.clone(),
        why: plain(&error),
    })?;
    let refuse =
        |what: &str| Err(unsupported(format!("{field}.source"), format!("{source} {what}")));
    match found.kind {
        Kind::Directory { tmpfs: Some(size) } if is(&mount, "/dev/shm") => {
            notes.push(format!("{field}: /dev/shm is memory of the guest instead of {source}"));
            if role == Role::Alone {
                return Ok(shared_memory(mount, size));
            }
            done.memory = vec![Memory { name: SHM.into(), size }];
            let source = format!("{MEMORY}/{SHM}");
            Ok(Mount { source: Some(source), ..mount })
        }
        Kind::Directory { .. } | Kind::File => {
            if done.entries.len() >= MAX_BINDS {
                return Err(unsupported(field, format!("more than {MAX_BINDS} bind mounts")));
            }
            let propagates = ["shared", "rshared"].iter().any(|option| mount.has(option));
            if propagates {
                notes.push(format!("{field}: mounts made in the guest do not appear on the host"));
            }
            let name = role.name(&done.entries.len().to_string());
            let source = format!("{SHARES}/{BINDS_TAG}/{name}");
            let read_only = mount.read_only();
            done.owners.extend(owners.map(|owners| (name.clone(), owners)));
            done.entries.push(ShareEntry { name, path: found.path, read_only, sealed: false });
            Ok(Mount { source: Some(source), ..mount })
        }
        Kind::Device { block, major, minor } => match node_of_guest(block, major, minor) {
            Some(node) => Ok(Mount { source: Some(node.into()), ..mount }),
            None => refuse("is a device of the host, which a microVM does not have"),
        },
        Kind::Kernel(kind @ ("proc" | "sysfs")) if whole(&found.path) => {
            notes.push(format!("{field}: {source} is the guest's {kind}"));
            Ok(own_kernel(mount, kind))
        }
        Kind::Kernel(kind) => refuse(&format!(
            "shows the host's kernel ({kind}), and a microVM has its own: mount that instead"
        )),
        Kind::Socket => refuse("is a socket, which no program in a microVM can connect to"),
        Kind::Fifo => refuse("is a named pipe, which does not reach into a microVM"),
    }
}

fn is(mount: &Mount, path: &str) -> bool {
    Path::new(&mount.destination).components().eq(Path::new(path).components())
}

fn whole(path: &Path) -> bool {
    path == Path::new("/proc") || path == Path::new("/sys")
}

fn shared_memory(mount: Mount, size: u64) -> Mount {
    let mut options: Vec<String> =
        ["nosuid", "nodev", "noexec", "mode=1777"].map(str::to_owned).into();
    match size {
        0 => {}
        // As engines write it that have the mount made by the runtime.
        size if size % 1024 == 0 => options.push(format!("size={}k", size / 1024)),
        size => options.push(format!("size={size}")),
    }
    if mount.read_only() {
        options.push("ro".into());
    }
    Mount {
        kind: Some("tmpfs".into()),
        source: Some("shm".into()),
        options: Some(options),
        ..mount
    }
}

fn own_kernel(mount: Mount, kind: &str) -> Mount {
    let kept = |option: &String| !matches!(option.as_str(), "bind" | "rbind");
    let options = mount.options.map(|options| options.into_iter().filter(kept).collect());
    Mount { kind: Some(kind.into()), source: Some(kind.into()), options, ..mount }
}

/// A file system on a device: the guest has no device of the host.
fn no_host_disk(mount: &Mount, field: &str) -> Result<(), RewriteError> {
    match &mount.source {
        Some(source) if source.starts_with("/dev/") => Err(unsupported(
            format!("{field}.source"),
            format!("{source} is a device of the host, which a microVM does not have"),
        )),
        _ => Ok(()),
    }
}

/// Whether `root` has a mount point for each of the guest's mounts, so that nothing needs to be written to it.
pub(super) fn fit(mounts: &[Value], root: &Path, host: &impl Host) -> bool {
    let points: Vec<PathBuf> = mounts
        .iter()
        .filter_map(|mount| mount.get("destination").and_then(Value::as_str))
        .map(normal)
        .collect();
    let covered =
        |point: &Path| points.iter().any(|other| point != other && point.starts_with(other));
    // Without a mount there, the default devices are made in the root.
    points.iter().any(|point| point == Path::new("/dev"))
        && points
            .iter()
            .filter(|point| !covered(point))
            .all(|point| point.to_str().is_some_and(|point| host.has(root, point)))
}

fn normal(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}
