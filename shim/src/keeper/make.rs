//! Makes the container and lets its program run.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::net::UnixListener},
};

use bulkhead_rootfs::Store;
use rustix::process::Pid;
use serde_json::Value;

use super::{
    KeeperError,
    launch::{open_directory, socket_in},
    streams::{Ends, Streams},
};
use crate::{
    cni::{self, Attached, Container, Port},
    container::{Definition, Place, Registry, id::short, root},
    lifecycle::{CreateOptions, LifecycleError},
    logs::LogWriter,
    sandbox::{Config, Isolation, MachineOptions, Root, Wish},
    settings::Settings,
    timeline::{Step, Timeline},
};

/// A container whose program runs.
#[derive(Debug)]
pub(super) struct Running {
    /// The child of this process that ends with the container.
    pub(super) pid: Pid,
    pub(super) streams: Streams,
    pub(super) listener: UnixListener,
    pub(super) log: LogWriter,
    pub(super) warnings: Vec<String>,
    /// While they are open nobody else gets the host's ports that the container publishes.
    pub(super) ports: Vec<OwnedFd>,
}

/// Makes it and starts it. This process has one thread.
pub(super) fn make(
    settings: &Settings,
    registry: &Registry,
    place: &Place,
    definition: &Definition,
    timeline: &mut Timeline,
    note: &dyn Fn(&str),
) -> Result<Running, KeeperError> {
    // Whatever an earlier keeper could not remove.
    registry.clear(&place.id)?;
    place.reserve()?;
    let listener = listen(place)?;
    let log = LogWriter::open(place.data(), definition.log)
        .map_err(KeeperError::io("open the container's log"))?;
    let network = attach(settings, registry, place, definition)?;
    let store = Store::open(&settings.data)?;
    let image = store.get(&definition.image)?;
    let root = match definition.isolation {
        Isolation::Host => {
            root::mount(&image, &store, place.data())?;
            Root::Bundle
        }
        Isolation::Vm => {
            let writable = (!definition.read_only).then(|| place.file("writable.ext4"));
            Root::Layers { image: image.disk_files(), writable, machine: machine(definition) }
        }
    };
    timeline.pass(Step::Prepared);
    let text = fs::read(place.file("config.json"))
        .map_err(KeeperError::io("read the container's config.json"))?;
    let config = Config::parse(text, "config.json").map_err(LifecycleError::from)?;
    let (mut streams, ends) = Streams::make(definition.terminal, definition.interactive)
        .map_err(KeeperError::io("make pipes"))?;
    ends.enter().map_err(KeeperError::io("use pipes"))?;
    let made = registry.lifecycle().create(&CreateOptions {
        id: &place.id,
        bundle: place.data(),
        config: &config,
        isolation: definition.isolation,
        root,
        console_socket: None,
        pid_file: None,
        preserve_fds: 0,
        no_pivot: false,
        no_new_keyring: false,
        systemd_cgroup: false,
        template: Wish {
            mode: definition.machine.template,
            tenant: definition.machine.tenant.as_deref(),
            tell: &|step| step.note().into_iter().for_each(|text| note(&text)),
        },
        owner: None,
    });
    Ends::leave().map_err(KeeperError::io("close pipes"))?;
    if definition.isolation == Isolation::Host {
        // What is mounted here could not be removed.
        root::detach(place)?;
    }
    let (mut container, spawned) = made?;
    timeline.pass(Step::Created);
    if let Some(master) = spawned.master {
        streams
            .set_terminal(master, definition.interactive)
            .map_err(KeeperError::io("use the container's terminal"))?;
    }
    let mut warnings = network.warnings;
    warnings.extend_from_slice(container.warnings());
    warnings.extend(container.start()?);
    let ports = network.ports;
    Ok(Running { pid: spawned.pid, streams, listener, log, warnings, ports })
}

/// Gives the container the network that it is to have.
fn attach(
    settings: &Settings,
    registry: &Registry,
    place: &Place,
    definition: &Definition,
) -> Result<Attached, KeeperError> {
    let Some(wish) = &definition.network else { return Ok(Attached::default()) };
    let (config, namespace) = (place.config()?, registry.namespace(&place.id));
    let hostname = config.get("hostname").and_then(Value::as_str).unwrap_or(short(&place.id));
    let container =
        Container { id: &place.id, directory: place.data(), namespace: &namespace, hostname };
    let (record, mut attached) = {
        let guard = registry.guard()?;
        let taken = |port: &Port| registry.publisher(&guard, port, &place.id);
        cni::begin(&settings.network, wish, container, taken)?
    };
    cni::attach(record, container, &mut attached)?;
    Ok(attached)
}

fn machine(definition: &Definition) -> MachineOptions {
    let machine = &definition.machine;
    MachineOptions {
        memory_mib: Some(machine.memory_mib),
        vcpus: Some(machine.vcpus),
        kernel: machine.kernel.clone(),
        console_log: machine.console_log.clone(),
    }
}

fn listen(place: &Place) -> Result<UnixListener, KeeperError> {
    let run = place.run()?;
    let bind = || -> io::Result<UnixListener> {
        let directory = open_directory(run)?;
        let socket = socket_in(&directory);
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(KeeperError::io("make its socket"))
}
