//! Makes of a host's runtime specification the one that the guest's agent gets, and what the machine must offer for it.
//! What has no meaning in a microVM is refused with the name of its property, or left out with a note.

mod devices;
mod host;
mod labels;
mod mounts;
mod namespaces;
mod resources;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bulkhead_protocol::Memory;
use bulkhead_vmm::api::{Cache, Share, ShareEntry};
use serde_json::{Map, Value};

pub use host::{Found, Host, Kind, ThisHost};
pub use mounts::Owners;
pub use namespaces::{Network, Shared};
pub use resources::guest_resources;

/// Where the agent mounts the shares, each below its tag.
pub const SHARES: &str = "/run/bulkhead/shares";
/// The tag of the share that holds a bundle's root.
pub const ROOT_TAG: &str = "root";
/// The tag of the share that holds what is bind-mounted.
pub const BINDS_TAG: &str = "binds";
/// The name of the root in its share.
pub const ROOT_NAME: &str = "rootfs";
/// The name there of a directory that a root is made with, and that is none itself.
pub const SNAPSHOT_NAME: &str = "snapshot";

/// Why a specification cannot be run in a microVM.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// A property is missing or has the wrong form.
    #[error("config.json: {field}: {need}")]
    Malformed {
        /// Its name.
        field: String,
        /// What it should be.
        need: String,
    },
    /// A mount's source cannot be found. The words are runc's.
    #[error("error mounting {from:?} to rootfs at {to:?}: stat {from}: {why}")]
    Source {
        /// The source.
        from: String,
        /// The destination.
        to: String,
        /// The system's answer.
        why: String,
    },
    /// The root cannot be used.
    #[error("invalid rootfs {path:?}: {why}")]
    Root {
        /// Its path.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It has no meaning in a microVM.
    #[error("{field}: {what} (with --isolation host it can)")]
    Unsupported {
        /// The property.
        field: String,
        /// What cannot be, and why.
        what: String,
    },
}

/// What a container is to its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role<'a> {
    /// The only one in it.
    Alone,
    /// A pod's sandbox, which others join.
    Sandbox,
    /// It joins a sandbox's machine. Its names in the shares begin so, since all of them have others.
    Member(&'a str),
}

impl Role<'_> {
    /// What it calls something in a share.
    #[must_use]
    pub fn name(self, name: &str) -> String {
        match self {
            Role::Alone | Role::Sandbox => name.to_owned(),
            Role::Member(prefix) => format!("{prefix}.{name}"),
        }
    }
}

/// What the guest is to make and the machine to offer.
#[derive(Debug)]
pub struct Guest {
    /// The agent's specification.
    pub spec: Value,
    /// What is shared with the machine, [`BINDS_TAG`] and, for a bundle, [`ROOT_TAG`].
    pub shares: Vec<Share>,
    /// Other owners of the entries with these names in [`BINDS_TAG`].
    pub owners: BTreeMap<String, Owners>,
    /// The host's network namespace that the machine belongs to.
    pub network: Network,
    /// Namespaces that it shares with others of its pod.
    pub shared: Shared,
    /// File systems in the guest's memory that its pod shares.
    pub memory: Vec<Memory>,
    /// What was left out, one line each.
    pub notes: Vec<String>,
}

impl Guest {
    /// Has the root be one that nothing can be written to, by the host's doing where it is a directory of the host.
    ///
    /// # Errors
    /// [`RewriteError::Malformed`].
    pub fn keep_root(&mut self) -> Result<(), RewriteError> {
        let spec = self.spec.as_object_mut().into_iter();
        for spec in spec {
            spec.entry("root").or_insert_with(|| Value::Object(Map::new()));
            if let Some(root) = object(spec, "root", "root")? {
                root.insert("readonly".into(), Value::Bool(true));
            }
        }
        let roots = self.shares.iter_mut().filter(|share| share.tag == ROOT_TAG);
        roots.flat_map(|share| &mut share.entries).for_each(|entry| entry.read_only = true);
        Ok(())
    }
}

/// Rewrites `spec`. With `root` the container's root is that directory of the host, otherwise it is none of this.
///
/// # Errors
/// [`RewriteError`].
pub fn rewrite(
    spec: &Value,
    bundle: &Path,
    root: Option<&Path>,
    role: Role<'_>,
    host: &impl Host,
) -> Result<Guest, RewriteError> {
    let Value::Object(spec) = spec else {
        return Err(malformed("config.json", "an object is needed"));
    };
    let mut spec = spec.clone();
    let mut notes = Vec::new();
    let mut shares = Vec::new();
    let list = take_list(&mut spec, "mounts")?;
    let mounts = mounts::rewrite(list, bundle, role, host, &mut notes)?;
    if let Some(root) = root {
        let read_only = read_only_root(&spec) && mounts::fit(&mounts.list, root, host);
        shares.push(root_share(&role.name(ROOT_NAME), root, read_only, host)?);
    }
    if !mounts.entries.is_empty() {
        let tag = BINDS_TAG.to_owned();
        shares.push(Share { tag, cache: Cache::None, entries: mounts.entries });
    }
    spec.insert("mounts".into(), Value::Array(mounts.list));
    keep_guest_hooks(&mut spec)?;
    // They are for the host's tools.
    if !spec.contains_key("hooks") {
        // Nobody else in a guest gets them.
        spec.remove("annotations");
    }
    labels::drop(&mut spec, &mut notes)?;
    let (mut network, mut shared) = (Network::Host, Vec::new());
    if let Some(linux) = object(&mut spec, "linux", "linux")? {
        (network, shared) = namespaces::rewrite(linux, role, &mut notes)?;
        devices::rewrite(linux, &mut notes)?;
        resources::rewrite(linux, &mut notes)?;
        // The guest's own cgroups have nothing but this container.
        linux.remove("cgroupsPath");
    }
    let (spec, owners, memory) = (Value::Object(spec), mounts.owners, mounts.memory);
    Ok(Guest { spec, shares, owners, network, shared, memory, notes })
}

/// A directory of the host by this name in the share [`ROOT_TAG`].
///
/// # Errors
/// [`RewriteError::Root`].
pub fn root_share(
    name: &str,
    root: &Path,
    read_only: bool,
    host: &impl Host,
) -> Result<Share, RewriteError> {
    let refused = |why: String| RewriteError::Root { path: root.to_owned(), why };
    let found = host.look(root).map_err(|error| refused(plain(&error)))?;
    if !matches!(found.kind, Kind::Directory { .. }) {
        return Err(refused("it is no directory".into()));
    }
    let entry = ShareEntry { name: name.into(), path: found.path, read_only, sealed: false };
    Ok(Share { tag: ROOT_TAG.into(), cache: Cache::Auto, entries: vec![entry] })
}

fn read_only_root(spec: &Map<String, Value>) -> bool {
    spec.get("root").and_then(|root| root.get("readonly")).and_then(Value::as_bool) == Some(true)
}

/// Only the hooks that run inside the container go there.
fn keep_guest_hooks(spec: &mut Map<String, Value>) -> Result<(), RewriteError> {
    let Some(hooks) = object(spec, "hooks", "hooks")? else { return Ok(()) };
    hooks.retain(|name, _| name == "startContainer");
    if hooks.is_empty() {
        spec.remove("hooks");
    }
    Ok(())
}

/// The object at `key`; `null` is none.
fn object<'a>(
    of: &'a mut Map<String, Value>,
    key: &str,
    field: &str,
) -> Result<Option<&'a mut Map<String, Value>>, RewriteError> {
    match of.get_mut(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(malformed(field, "an object is needed")),
    }
}

/// Takes the list at `key` out; `null` is an empty one.
fn take_list(of: &mut Map<String, Value>, key: &str) -> Result<Vec<Value>, RewriteError> {
    match of.remove(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(malformed(key, "a list is needed")),
    }
}

fn malformed(field: &str, need: &str) -> RewriteError {
    RewriteError::Malformed { field: field.into(), need: need.into() }
}

fn unsupported(field: impl Into<String>, what: impl Into<String>) -> RewriteError {
    RewriteError::Unsupported { field: field.into(), what: what.into() }
}

/// An error as strerror(3) says it, in lower case, which is how runc's users know it.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
