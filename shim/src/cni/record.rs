//! What is remembered of a container's network, to be shown and to be undone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    CniError, INTERFACE, Port, Setup,
    error::failed,
    list::List,
    namespace,
    outcome::{Address, Outcome},
};
use crate::files;

const FILE: &str = "network.json";

/// What a container has, or may have, of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub(super) id: String,
    pub(super) namespace: PathBuf,
    /// The network as it was when the container was started.
    pub(super) list: List,
    pub(super) setup: Setup,
    pub(super) ports: Vec<Port>,
    /// Of the last plugin that was asked to add something.
    pub(super) result: Option<Value>,
    /// All plugins have ended.
    pub(super) complete: bool,
}

impl Record {
    /// That of the container in this directory; `None`: it has no network now.
    ///
    /// # Errors
    /// [`CniError::Damaged`], or a file that cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>, CniError> {
        let path = directory.join(FILE);
        let text = files::read(&path).map_err(failed(format!("read {}", path.display())))?;
        let Some(text) = text else { return Ok(None) };
        let record = serde_json::from_slice(&text);
        record.map(Some).map_err(|error| CniError::Damaged { path, reason: error.to_string() })
    }

    /// Replaces the file as a whole.
    pub(super) fn write(&self, directory: &Path) -> Result<(), CniError> {
        let path = directory.join(FILE);
        files::replace(&path, self).map_err(failed(format!("write {}", path.display())))
    }

    /// Everything was given back.
    pub(super) fn forget(&self, directory: &Path) -> Result<(), CniError> {
        namespace::remove(&self.namespace)?;
        remove(directory)
    }

    /// The port of these that a packet for `port` could be for, too.
    #[must_use]
    pub fn has(&self, port: &Port) -> bool {
        self.ports.iter().any(|own| own.meets(port))
    }

    /// What it is for people.
    #[must_use]
    pub fn view(&self) -> View {
        let result = self.result.clone().unwrap_or_default();
        let Outcome { addresses, mac, .. } = Outcome::of(&result, INTERFACE).unwrap_or_default();
        View { namespace: self.namespace.clone(), addresses, mac }
    }
}

pub(super) fn remove(directory: &Path) -> Result<(), CniError> {
    let path = directory.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// A container's network as `ps` and `inspect` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    namespace: PathBuf,
    addresses: Vec<Address>,
    mac: Option<String>,
}

impl View {
    /// The addresses, without their networks.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(|address| address.ip.to_string()).collect()
    }

    /// With docker's names (`NetworkSettings` of `docker inspect`).
    #[must_use]
    pub fn json(&self, network: &str, ports: &[Port]) -> Value {
        let of = |v4: bool| self.addresses.iter().find(move |one| one.ip.is_ipv4() == v4);
        let ip = |v4: bool| of(v4).map(|one| one.ip.to_string()).unwrap_or_default();
        let bits = |v4: bool| of(v4).map_or(0, |one| one.prefix);
        let gateway = |v4: bool| {
            of(v4).and_then(|one| one.gateway).map(|ip| ip.to_string()).unwrap_or_default()
        };
        json!({
            "SandboxKey": self.namespace,
            "IPAddress": ip(true),
            "Networks": { network: {
                "IPAddress": ip(true),
                "IPPrefixLen": bits(true),
                "Gateway": gateway(true),
                "GlobalIPv6Address": ip(false),
                "GlobalIPv6PrefixLen": bits(false),
                "IPv6Gateway": gateway(false),
                "MacAddress": self.mac.as_deref().unwrap_or_default(),
                "Addresses": self.addresses.iter().map(|one| format!("{}/{}", one.ip, one.prefix)).collect::<Vec<_>>(),
            } },
            "Ports": bindings(ports),
        })
    }
}

/// Ports as docker has them: `{ "80/tcp": [{ "HostIp": …, "HostPort": "8080" }] }`.
#[must_use]
pub fn bindings(ports: &[Port]) -> Value {
    let mut all: Map<String, Value> = Map::new();
    for port in ports {
        let ip = port.ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
        let one = json!({ "HostIp": ip, "HostPort": port.host.to_string() });
        let list = all.entry(format!("{}/{}", port.container, port.protocol));
        if let Value::Array(list) = list.or_insert_with(|| json!([])) {
            list.push(one);
        }
    }
    Value::Object(all)
}
