//! Networks of `bulkhead run`: a network namespace of the container's own, into which the standard CNI plugins put an interface
//! (<https://www.cni.dev/docs/spec/>). What comes after that is as with every other engine: `linux.namespaces` names the namespace.
//!
//! A container has its network from its start to its end. What was made for it is in `network.json` beside its definition, which is there before
//! the first plugin runs and goes after the last one has taken back what it gave: whoever is killed, the next one finds it ([`detach`]).

mod error;
mod files;
mod list;
mod namespace;
mod outcome;
mod plugin;
mod port;
mod record;
mod subnet;

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::{
    error::CniError,
    files::NAMES,
    list::DEFAULT,
    namespace::path,
    port::{Port, Protocol},
    record::{Record, View, bindings},
};
use self::{error::failed, list::List, outcome::Outcome, plugin::Call};

/// The container's interface.
const INTERFACE: &str = "eth0";
/// How often a lock that another process holds is tried.
const PAUSE: Duration = Duration::from_millis(20);

/// Where networks and plugins are, and how long a plugin may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Where the files of networks are.
    pub config_dir: PathBuf,
    /// Where the plugins are; the first that has one counts.
    pub plugin_dirs: Vec<PathBuf>,
    /// Seconds that a plugin may take.
    pub timeout: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config_dir: "/etc/cni/net.d".into(),
            plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            timeout: 60,
        }
    }
}

/// The network that a container is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Its name.
    pub name: String,
    /// Ports of the host that lead to the container.
    pub ports: Vec<Port>,
    /// Where its file is instead of where the settings say.
    pub config_dir: Option<PathBuf>,
}

/// Who gets the network.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its directory, which outlives its runs.
    pub directory: &'a Path,
    /// Its network namespace.
    pub namespace: &'a Path,
    /// Its host name.
    pub hostname: &'a str,
}

/// A network that a container has. While this is open nobody else gets its ports.
#[derive(Debug, Default)]
pub struct Attached {
    /// Sockets on the ports of the host.
    pub ports: Vec<OwnedFd>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Wish {
    /// The network that these words of the command line ask for; `None`: a loopback device only.
    ///
    /// # Errors
    /// Words that make no sense together.
    pub fn of(
        name: Option<&str>,
        ports: &[Port],
        config_dir: Option<&Path>,
    ) -> Result<Option<Self>, CniError> {
        let name = match name {
            Some("none") if ports.is_empty() => return Ok(None),
            Some("none") => return Err(CniError::NoneWithPorts),
            None if ports.is_empty() => return Ok(None),
            name => name.unwrap_or(DEFAULT),
        };
        for (number, first) in ports.iter().enumerate() {
            if let Some(second) = ports.iter().skip(number + 1).find(|other| first.meets(other)) {
                let (first, second) = (first.to_string(), second.to_string());
                return Err(CniError::PortTwice { first, second });
            }
        }
        let config_dir = config_dir.and_then(|path| std::path::absolute(path).ok());
        Ok(Some(Self { name: name.into(), ports: ports.into(), config_dir }))
    }

    /// Whether there is such a network, and all its plugins.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, setup: &Setup) -> Result<(), CniError> {
        self.find(setup).map(drop)
    }

    fn find(&self, setup: &Setup) -> Result<List, CniError> {
        let directory = self.config_dir.as_deref().unwrap_or(&setup.config_dir);
        let installed = |plugin: &str| plugin::find(&setup.plugin_dirs, plugin).is_some();
        let list = List::find(&self.name, directory, installed)?;
        for kind in list.plugins.iter().map(List::kind) {
            program(&list, kind, &setup.plugin_dirs)?;
        }
        if !self.ports.is_empty() && !list.plugins.iter().any(List::publishes) {
            return Err(CniError::NoPorts(self.name.clone()));
        }
        Ok(list)
    }
}

/// Begins a container's network: what is to be made is written down, and its ports are this process's. `taken` says of a port which other
/// container has it; nobody else begins meanwhile.
///
/// # Errors
/// [`CniError`], with nothing left.
pub fn begin(
    setup: &Setup,
    wish: &Wish,
    container: Container<'_>,
    taken: impl Fn(&Port) -> Option<String>,
) -> Result<(Record, Attached), CniError> {
    let list = wish.find(setup)?;
    let mut attached = Attached::default();
    for port in &wish.ports {
        if let Some(other) = taken(port) {
            return Err(CniError::PortTaken { port: port.name(), container: other });
        }
        attached.ports.push(port.hold()?);
    }
    let record = Record {
        id: container.id.into(),
        namespace: container.namespace.into(),
        list,
        setup: setup.clone(),
        ports: wish.ports.clone(),
        result: None,
        complete: false,
    };
    record.write(container.directory)?;
    Ok((record, attached))
}

/// Makes what was begun, and the container's files. What was made before an error is [`detach`]'s.
///
/// # Errors
/// [`CniError`].
pub fn attach(
    mut record: Record,
    container: Container<'_>,
    attached: &mut Attached,
) -> Result<(), CniError> {
    let lock = lock(container.directory)?;
    // Who has it still is past waiting for.
    let _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
    namespace::make(container.namespace)?;
    let ports = mappings(&record.ports);
    let mut result: Option<Value> = None;
    for plugin in &record.list.plugins {
        let kind = List::kind(plugin);
        let input = record.list.input(plugin, &ports, result.as_ref());
        let output = record.call(kind, "ADD", Some(container.namespace), input, &lock)?;
        result = Some(parse(&output).map_err(|reason| record.failed(kind, "ADD", reason))?);
        // Written down after each: a plugin's own undoing may need it.
        record.result.clone_from(&result);
        record.write(container.directory)?;
    }
    if !namespace::is_there(container.namespace) {
        return Err(CniError::Gone(container.namespace.into()));
    }
    let last = record.list.plugins.last().map_or("", List::kind);
    let outcome = Outcome::of(&result.unwrap_or_default(), INTERFACE)
        .map_err(|reason| record.failed(last, "ADD", reason))?;
    if outcome.addresses.is_empty() {
        if record.list.gives_addresses() || !record.ports.is_empty() {
            return Err(CniError::NoAddress(record.list.name.clone()));
        }
        let name = &record.list.name;
        attached.warnings.push(format!("the network {name:?} gives its containers no addresses"));
    }
    files::write(container.directory, container.hostname, &outcome.addresses, &outcome.names)?;
    record.complete = true;
    record.write(container.directory)
}

/// Gives back what a container has of its network, if it has one. May be called again when it could not be done, and at any time.
///
/// # Errors
/// [`CniError`] of the first plugin that failed; the others were called all the same.
pub fn detach(directory: &Path) -> Result<(), CniError> {
    let Some(record) = Record::read(directory)? else { return Ok(()) };
    let lock = lock(directory)?;
    // A plugin whose caller was killed may be at work yet.
    let deadline = Instant::now() + record.patience();
    while !record.complete
        && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
        && Instant::now() < deadline
    {
        thread::sleep(PAUSE);
    }
    let there = namespace::is_there(&record.namespace);
    let namespace = there.then_some(record.namespace.as_path());
    let ports = mappings(&record.ports);
    let previous = record.result.as_ref().filter(|_| record.list.returns_results());
    let mut failed = None;
    for plugin in record.list.plugins.iter().rev() {
        let input = record.list.input(plugin, &ports, previous);
        if let Err(error) = record.call(List::kind(plugin), "DEL", namespace, input, &lock) {
            failed.get_or_insert(error);
        }
    }
    match failed {
        Some(error) => Err(error),
        None => record.forget(directory),
    }
}

/// Removes a container's namespace without asking the plugins: what they hold for it stays theirs.
///
/// # Errors
/// [`CniError::System`].
pub fn abandon(directory: &Path, namespace: &Path) -> Result<(), CniError> {
    namespace::remove(namespace)?;
    record::remove(directory)
}

/// What plugins take for ports (`portMappings`).
fn mappings(ports: &[Port]) -> Vec<Value> {
    let mapping = |port: &Port| {
        let mut mapping = json!({
            "hostPort": port.host,
            "containerPort": port.container,
            "protocol": port.protocol,
        });
        if let Some(ip) = port.ip {
            mapping["hostIP"] = ip.to_string().into();
        }
        mapping
    };
    ports.iter().map(mapping).collect()
}

fn program(list: &List, kind: &str, directories: &[PathBuf]) -> Result<PathBuf, CniError> {
    plugin::find(directories, kind).ok_or_else(|| CniError::Missing {
        network: list.name.clone(),
        plugin: kind.into(),
        directories: directories
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// A result of `ADD`.
fn parse(output: &[u8]) -> Result<Value, String> {
    match serde_json::from_slice(output) {
        Ok(result @ Value::Object(_)) => Ok(result),
        _ => Err(match plugin::words(output) {
            Some(words) => format!("it wrote no result: {words}"),
            None => "it wrote no result".into(),
        }),
    }
}

/// Held by a process that runs plugins for this container, and by those.
fn lock(directory: &Path) -> Result<File, CniError> {
    File::open(directory).map_err(failed(format!("open {}", directory.display())))
}

impl Record {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.setup.timeout)
    }

    fn failed(&self, plugin: &str, command: &'static str, reason: String) -> CniError {
        CniError::Plugin { network: self.list.name.clone(), plugin: plugin.into(), command, reason }
    }

    fn call(
        &self,
        kind: &str,
        command: &'static str,
        namespace: Option<&Path>,
        input: Value,
        lock: &File,
    ) -> Result<Vec<u8>, CniError> {
        let call = Call {
            directories: &self.setup.plugin_dirs,
            command,
            container: &self.id,
            namespace,
            interface: INTERFACE,
            input,
            patience: self.patience(),
            lock,
        };
        let program = program(&self.list, kind, &self.setup.plugin_dirs)?;
        call.run(&program).map_err(|reason| self.failed(kind, command, reason))
    }
}

#[cfg(test)]
mod tests;
