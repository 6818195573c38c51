//! Networks as CNI configures them: files with lists of plugins (CNI specification 1.0.0, section 1), and the one that needs no file.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{CniError, subnet};

/// The network of those who name none and publish ports.
pub const DEFAULT: &str = "bulkhead";
/// Versions of the specification whose lists, results and errors are understood. In those before 0.4.0 `DEL` gets no result.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The largest file of a network.
const MOST_BYTES: u64 = 1 << 20;
/// The most files that are looked at, and plugins of one network.
const MOST_FILES: usize = 1024;
const MOST_PLUGINS: usize = 32;
/// The capability of plugins that publish ports (CNI's CONVENTIONS.md).
const PORT_MAPPINGS: &str = "portMappings";

/// A network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List {
    pub(super) name: String,
    pub(super) cni_version: String,
    /// In the order of `ADD`.
    pub(super) plugins: Vec<Map<String, Value>>,
}

impl List {
    /// The network of this name. `installed` says of a plugin whether it is there.
    ///
    /// # Errors
    /// [`CniError::Unknown`], and the reasons for which the default one cannot be made.
    pub(super) fn find(
        name: &str,
        directory: &Path,
        installed: impl Fn(&str) -> bool,
    ) -> Result<Self, CniError> {
        let mut known = BTreeSet::from([DEFAULT.to_owned()]);
        let mut broken = String::new();
        for path in files(directory)? {
            match read(&path) {
                Ok(list) if list.name == name => return Ok(list),
                Ok(list) => drop(known.insert(list.name)),
                Err(error) => broken = format!("{broken}; {error}"),
            }
        }
        if name == DEFAULT {
            return Ok(standard(&subnet::choose()?, installed));
        }
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        Err(CniError::Unknown { name: name.into(), directory: directory.into(), known, broken })
    }

    /// The program of a plugin.
    pub(super) fn kind(plugin: &Map<String, Value>) -> &str {
        plugin.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether a plugin takes ports to publish.
    pub(super) fn publishes(plugin: &Map<String, Value>) -> bool {
        let capability = plugin.get("capabilities").and_then(|all| all.get(PORT_MAPPINGS));
        capability == Some(&Value::Bool(true))
    }

    /// Whether a plugin is to give an address.
    pub(super) fn gives_addresses(&self) -> bool {
        let manager = |plugin: &Map<String, Value>| {
            plugin.get("ipam")?.get("type")?.as_str().map(|kind| !kind.is_empty())
        };
        self.plugins.iter().any(|plugin| manager(plugin).unwrap_or(false))
    }

    /// Whether `DEL` gets what `ADD` gave (since 0.4.0).
    pub(super) fn returns_results(&self) -> bool {
        !self.cni_version.starts_with("0.3.")
    }

    /// What a plugin reads (section 3, "Deriving execution configuration from plugin configuration").
    pub(super) fn input(
        &self,
        plugin: &Map<String, Value>,
        ports: &[Value],
        previous: Option<&Value>,
    ) -> Value {
        let mut input = plugin.clone();
        input.remove("capabilities");
        input.insert("name".into(), self.name.clone().into());
        input.insert("cniVersion".into(), self.cni_version.clone().into());
        if Self::publishes(plugin) && !ports.is_empty() {
            input.insert("runtimeConfig".into(), json!({ PORT_MAPPINGS: ports }));
        }
        if let Some(previous) = previous {
            input.insert("prevResult".into(), previous.clone());
        }
        Value::Object(input)
    }

    /// Reads what a file says. One that describes a plugin and no list is a list of that plugin.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let name = text("name").ok_or("it has no name")?.to_owned();
        let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
            return Err(format!(
                "{name:?} is not a network's name: letters, digits and _.- are needed"
            ));
        }
        let cni_version = text("cniVersion").unwrap_or("0.3.1").to_owned();
        if !VERSIONS.contains(&cni_version.as_str()) {
            let known = VERSIONS.join(", ");
            return Err(format!("cniVersion {cni_version:?} is not one of {known}"));
        }
        let plugins = match value.get("plugins") {
            Some(Value::Array(plugins)) => plugins.clone(),
            Some(_) => return Err("plugins is not a list".into()),
            None => vec![value],
        };
        if plugins.is_empty() || plugins.len() > MOST_PLUGINS {
            return Err(format!(
                "it has {} plugins; 1 to {MOST_PLUGINS} are needed",
                plugins.len()
            ));
        }
        let plugin = |plugin: Value| match plugin {
            Value::Object(plugin) if is_program(Self::kind(&plugin)) => Ok(plugin),
            _ => Err("a plugin has no type, or one that is no program's name".to_owned()),
        };
        let plugins = plugins.into_iter().map(plugin).collect::<Result<_, _>>()?;
        Ok(Self { name, cni_version, plugins })
    }
}

/// A name in the plugins' directories, not a way out of them.
fn is_program(kind: &str) -> bool {
    !kind.is_empty() && !kind.contains(['/', '\0']) && kind != "." && kind != ".."
}

/// The files of networks, in the order of their names.
fn files(directory: &Path) -> Result<Vec<PathBuf>, CniError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(CniError::File { path: directory.into(), reason: error.to_string() });
        }
    };
    let is_networks = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conflist" | "conf" | "json")) && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_networks)
        .take(MOST_FILES)
        .collect();
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<List, CniError> {
    let bad = |reason: String| CniError::File { path: path.into(), reason };
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| bad(error.to_string()))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut text).map_err(|error| bad(error.to_string()))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(bad(format!("it is larger than {MOST_BYTES} bytes")));
    }
    List::parse(&text).map_err(bad)
}

/// The default network: a bridge with addresses of this subnet, ports, and what lets its packets through a firewall, where that is there.
fn standard(subnet: &str, installed: impl Fn(&str) -> bool) -> List {
    let mut plugins = vec![
        json!({
            "type": "bridge",
            "bridge": subnet::BRIDGE,
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": subnet }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }),
        json!({ "type": "portmap", "capabilities": { PORT_MAPPINGS: true } }),
    ];
    if installed("firewall") {
        plugins.push(json!({ "type": "firewall" }));
    }
    let object = |plugin| match plugin {
        Value::Object(plugin) => Some(plugin),
        _ => None,
    };
    let plugins = plugins.into_iter().filter_map(object).collect();
    List { name: DEFAULT.into(), cni_version: "0.4.0".into(), plugins }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> Result<List, String> {
        List::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_list_is_read_and_what_is_wrong_is_named() {
        let list = parse(&json!({ "cniVersion": "1.0.0", "name": "web", "plugins": [
            { "type": "bridge", "ipam": { "type": "host-local" } },
            { "type": "portmap", "capabilities": { "portMappings": true, "other": true } },
        ] }))
        .unwrap();
        assert_eq!((list.name.as_str(), list.plugins.len()), ("web", 2));
        assert!(list.gives_addresses() && list.returns_results());
        let ports = [json!({ "hostPort": 1 })];
        let bridge = list.input(&list.plugins[0], &ports, None);
        assert_eq!(
            bridge,
            json!({ "cniVersion": "1.0.0", "name": "web", "type": "bridge", "ipam": { "type": "host-local" } })
        );
        let portmap = list.input(&list.plugins[1], &ports, Some(&json!({ "ips": [] })));
        assert_eq!(
            portmap,
            json!({ "cniVersion": "1.0.0", "name": "web", "type": "portmap",
            "runtimeConfig": { "portMappings": [{ "hostPort": 1 }] }, "prevResult": { "ips": [] } })
        );
        assert!(list.input(&list.plugins[1], &[], None).get("runtimeConfig").is_none());
        let single =
            parse(&json!({ "name": "one", "type": "ptp", "cniVersion": "0.3.1" })).unwrap();
        assert_eq!(List::kind(&single.plugins[0]), "ptp");
        assert!(!single.returns_results() && !single.gives_addresses());
        let plugin = json!({ "type": "x" });
        for (bad, why) in [
            (json!([]), "no name"),
            (json!({ "name": "a b", "plugins": [plugin] }), "not a network's name"),
            (json!({ "name": "-a", "plugins": [plugin] }), "not a network's name"),
            (json!({ "name": "a", "cniVersion": "0.2.0", "plugins": [plugin] }), "0.2.0"),
            (json!({ "name": "a", "plugins": [] }), "0 plugins"),
            (json!({ "name": "a", "plugins": vec![plugin; 33] }), "33 plugins"),
            (json!({ "name": "a", "plugins": {} }), "not a list"),
            (json!({ "name": "a", "plugins": [{ "type": "../sh" }] }), "no program's name"),
            (json!({ "name": "a" }), "no type"),
        ] {
            let error = parse(&bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(List::parse(b"{").is_err());
    }

    #[test]
    fn a_network_is_found_by_its_name_and_an_unknown_one_lists_those() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write(
            "20-b.conflist",
            r#"{"name":"b","cniVersion":"0.4.0","plugins":[{"type":"second"}]}"#,
        );
        write("10-b.conf", r#"{"name":"b","cniVersion":"0.4.0","type":"first"}"#);
        write("30-a.json", r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#);
        write("40-broken.conflist", "{");
        write("notes.txt", "no network");
        fs::create_dir(directory.path().join("d.conflist")).unwrap();
        let find = |name: &str| List::find(name, directory.path(), |_| false);
        assert_eq!(List::kind(&find("b").unwrap().plugins[0]), "first");
        let error = find("c").unwrap_err().to_string();
        assert!(error.contains("known are a, b, bulkhead;"), "{error}");
        assert!(error.contains("40-broken.conflist") && !error.contains('\n'), "{error}");
        write("50-bulkhead.conflist", r#"{"name":"bulkhead","plugins":[{"type":"mine"}]}"#);
        assert_eq!(List::kind(&find(DEFAULT).unwrap().plugins[0]), "mine");
        let empty = List::find("c", Path::new("/no/such/directory"), |_| true).unwrap_err();
        assert!(empty.to_string().contains("known are bulkhead "), "{empty}");
        write("00-large.conflist", &" ".repeat(2 << 20));
        assert!(find("c").unwrap_err().to_string().contains("larger than"));
    }

    #[test]
    fn the_default_network_publishes_ports() {
        let list = standard("10.89.100.0/24", |_| true);
        let kinds: Vec<_> = list.plugins.iter().map(List::kind).collect();
        assert_eq!(kinds, ["bridge", "portmap", "firewall"]);
        assert!(list.plugins.iter().any(List::publishes) && list.gives_addresses());
        assert_eq!(list.plugins[0]["ipam"]["ranges"][0][0]["subnet"], "10.89.100.0/24");
        assert_eq!(standard("10.89.1.0/24", |_| false).plugins.len(), 2);
        let text = serde_json::to_vec(&list).unwrap();
        assert_eq!(List::parse(&text).unwrap(), list);
    }
}
