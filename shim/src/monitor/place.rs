//! The monitor's place on the host: the network namespace and the control group in which the host's tools look for the
//! container, and the files of its state directory.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use bulkhead_container::{Cgroup, Cgroups, Error, Placed, Version, hooks, spec::Resources};
use bulkhead_protocol::Failure;
use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    fault::{Fault, to},
    names,
    plan::Plan,
    signals,
};
use crate::{
    network,
    sandbox::vm::{Identity, NetworkRecord, RECORD, Record, rewrite::Network},
};

/// Of files in the state directory.
const MODE: Mode = Mode::from_raw_mode(0o600);

/// Where this process was before; with it, it can leave again.
#[derive(Debug, Default)]
pub(crate) struct Place {
    cgroup: Option<Cgroup>,
    /// Controllers and path of each group, as in `/proc/self/cgroup`.
    before: Vec<(String, String)>,
    /// This process has entered a network namespace that is not the host's.
    own_network: bool,
}

impl Place {
    /// Enters the network namespace and the control group, and notes them for whoever removes the container.
    pub(super) fn enter(&mut self, plan: &Plan, files: impl AsFd) -> Result<Record, Fault> {
        self.own_network = join_network(&plan.network)?;
        let network = match &plan.network {
            Network::Path(namespace) if self.own_network && plan.pod.is_none() => {
                Some(NetworkRecord { namespace: namespace.clone(), container: plan.id.clone() })
            }
            _ => None,
        };
        let mut record = Record {
            monitor: Identity::own(),
            vmm: None,
            cgroup: None,
            network,
            upper: plan.upper.clone(),
            pod: plan.pod.clone(),
        };
        self.before = own_groups();
        let wish = plan.host.pointer("/linux/cgroupsPath").and_then(Value::as_str);
        self.cgroup = group(&plan.id, wish)?;
        if let Some(group) = &self.cgroup {
            record.cgroup =
                Some(serde_json::to_value(group.record()).map_err(to("note the cgroup"))?);
        }
        write(&files, RECORD, &record);
        self.cgroup.as_ref().map_or(Ok(()), join)?;
        Ok(record)
    }

    /// The same for a container that joins a pod.
    pub(crate) fn seat(&mut self, plan: &Plan, files: impl AsFd) -> Result<Record, Failure> {
        self.enter(plan, files).map_err(|fault| fault.failure())
    }

    /// As [`Place::run_hooks`], for a container that joins a pod.
    pub(crate) fn hooks(plan: &Plan) -> Result<(), Failure> {
        Self::run_hooks(plan).map_err(|fault| fault.failure())
    }

    /// Runs the hooks of the container's making. Those of `createContainer` run here, too: the container's own namespaces
    /// are another kernel's.
    pub(super) fn run_hooks(plan: &Plan) -> Result<(), Fault> {
        let pid = rustix::process::getpid().as_raw_pid();
        let state = plan.state.json("creating", Some(pid));
        for (hooks, which) in [
            (&plan.hooks.prestart, "prestart"),
            (&plan.hooks.create_runtime, "createRuntime"),
            (&plan.hooks.create_container, "createContainer"),
        ] {
            signals::with_none_blocked(|| hooks::run(hooks, &state, which)).map_err(refused)?;
        }
        Ok(())
    }

    /// Takes the interfaces for the guest that are in the network namespace now: all who were to put some there have been asked.
    pub(super) fn network(&self, plan: &Plan) -> Result<network::Network, Fault> {
        if !self.own_network {
            return Ok(network::Network::default());
        }
        let mut network = network::Network::take(&plan.id)?;
        if let Some(guest) = &mut network.guest {
            guest.name_servers = names::local(&plan.host);
        }
        Ok(network)
    }

    /// Whether this process is in a network namespace that is not the host's.
    pub(super) fn has_network(&self) -> bool {
        self.own_network
    }

    /// Gives the interfaces back. A namespace that ends with this process need not be cleaned.
    pub(super) fn leave_network(&self, plan: &Plan) {
        // That of a pod is its sandbox's to give back.
        if self.own_network && matches!(plan.network, Network::Path(_)) && plan.pod.is_none() {
            // What is left is found by the next one.
            let _ = network::release(&plan.id);
        }
    }

    /// Leaves nothing behind of a container that could not be made.
    pub(crate) fn leave(&self, plan: &Plan) {
        self.leave_network(plan);
        clean(&plan.directory);
        let Some(group) = &self.cgroup else { return };
        let now = own_groups();
        for place in group.places() {
            // The unified hierarchy's line names none.
            let names = if place.version == Version::V2 { "" } else { place.controllers };
            let same =
                |other: &str| names.split(',').all(|name| other.split(',').any(|one| one == name));
            let path = |list: &[(String, String)]| {
                list.iter().find(|(other, _)| same(other)).map(|(_, path)| path.clone())
            };
            let (Some(now), Some(before)) = (path(&now), path(&self.before)) else { return };
            let Some(mount) = place.path.strip_suffix(&now) else { return };
            if enter(&format!("{mount}{before}")).is_err() {
                return;
            }
        }
        // Nobody is left to tell.
        let _ = group.remove();
    }
}

/// Makes the group. Its limits are the guest's to keep: here it only counts and names the processes, so that a user who may make
/// none has one less.
fn group(id: &str, wish: Option<&str>) -> Result<Option<Cgroup>, Fault> {
    let Some(groups) = Cgroups::host().map_err(refused)? else { return Ok(None) };
    match groups.create(wish, id, &Resources::default()) {
        Ok((group, _)) => Ok(Some(group)),
        Err(Error::System { errno: Errno::ACCESS | Errno::PERM | Errno::ROFS, .. })
            if !rustix::process::geteuid().is_root() =>
        {
            Ok(None)
        }
        Err(error) => Err(refused(error)),
    }
}

/// Removes the sockets and what was noted early.
pub(crate) fn clean(directory: &Path) {
    // What is not there need not be removed, and the rest goes with the directory.
    let _ = fs::remove_file(directory.join(super::message::SOCKET));
    let _ = fs::remove_dir_all(directory.join(super::core::VSOCK_DIRECTORY));
    let _ = fs::remove_file(directory.join(RECORD));
}

/// Replaces a file of the state directory with what `value` is as JSON. The container does not depend on these files.
pub(crate) fn write(directory: impl AsFd, name: &str, value: &impl Serialize) {
    let new = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let written = serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|text| File::from(openat(&directory, &new, flags, MODE)?).write_all(&text))
        .and_then(|()| Ok(renameat(&directory, &new, &directory, name)?));
    if written.is_err() {
        let _ = unlinkat(&directory, &new, AtFlags::empty());
    }
}

/// The state directory, to reach its files wherever this process's root is.
pub(super) fn directory(plan: &Plan) -> Result<OwnedFd, Fault> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&plan.directory, flags, Mode::empty())
        .map_err(to(format!("open {}", plan.directory.display())))
}

/// The state directory, for a container that joins a pod.
pub(crate) fn state_directory(plan: &Plan) -> Result<OwnedFd, Failure> {
    directory(plan).map_err(|fault| fault.failure())
}

/// Enters the container's network namespace. Whether it is another one than the host's.
fn join_network(network: &Network) -> Result<bool, Fault> {
    match network {
        Network::Host => Ok(false),
        Network::New => {
            // SAFETY: takes no pointers, and this process has one thread.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
                bulkhead_container::loopback_up().map_err(refused)?;
                return Ok(true);
            }
            match io::Error::last_os_error() {
                // Without privileges the machine is in the caller's network, of which the guest sees nothing.
                error if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
                error => Err(to("make a network namespace")(error)),
            }
        }
        Network::Path(path) => {
            let what = || format!("join the network namespace {}", path.display());
            let file = File::open(path).map_err(to(what()))?;
            if network::is_hosts(&file) {
                return Ok(false);
            }
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(to(what()))?;
            Ok(true)
        }
    }
}

fn join(group: &Cgroup) -> Result<(), Fault> {
    for Placed { version, path, .. } in group.places() {
        if version == Version::V2 {
            enter(path).map_err(to(format!("enter the cgroup {path}")))?;
        }
    }
    group.enter(rustix::process::getpid()).map_err(refused)
}

/// Moves this process (`0`) into a group.
fn enter(directory: &str) -> io::Result<()> {
    File::options().write(true).open(format!("{directory}/cgroup.procs"))?.write_all(b"0")
}

/// Lines `ID:CONTROLLERS:PATH` (cgroups(7)).
fn own_groups() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let line = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some((controllers.to_owned(), path.trim_end_matches('/').to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn refused(error: bulkhead_container::Error) -> Fault {
    Fault::Place(error)
}
