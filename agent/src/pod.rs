//! What the containers of a guest have in common: namespaces, and file systems in memory. And what one of them leaves.

use std::path::{Path, PathBuf};

use bulkhead_container::spec::{Linux, Namespace, NamespaceType, Spec};
use bulkhead_protocol::{Failure, MEMORY, Memory, Shared};
use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags},
};

use crate::{
    answer::{failure, invalid, state, system},
    boot,
    processes::Processes,
    shares::check_name,
};

/// More file systems in memory than this are refused.
const MOST_MEMORY: usize = 16;

/// Has the specification name the namespaces of other containers.
pub(crate) fn share(
    spec: &mut Spec,
    shared: &[Shared],
    processes: &mut Processes,
) -> Result<(), Failure> {
    if shared.is_empty() {
        return Ok(());
    }
    boot::needs_proc()?;
    let linux = spec.linux.get_or_insert_with(Linux::default);
    for Shared { kind, container } in shared {
        let (kind, file) = match kind.as_str() {
            "network" => (NamespaceType::Network, "net"),
            "ipc" => (NamespaceType::Ipc, "ipc"),
            "uts" => (NamespaceType::Uts, "uts"),
            "pid" => (NamespaceType::Pid, "pid"),
            "user" => (NamespaceType::User, "user"),
            other => {
                let why = "cannot be shared; network, ipc, uts, pid and user can";
                return Err(invalid(format!("a namespace of type {other:?} {why}")));
            }
        };
        let entry = processes.entry(container).map_err(failure)?;
        if entry.container.is_stopped() {
            return Err(state(format!("container {container} has stopped")));
        }
        let pid = entry.container.init().pid();
        let path = format!("/proc/{}/ns/{file}", pid.as_raw_nonzero());
        linux.namespaces.retain(|namespace| namespace.kind != kind);
        linux.namespaces.push(Namespace { kind, path: Some(path) });
    }
    Ok(())
}

/// Mounts file systems that are not there yet.
pub(crate) fn mount_memory(memory: &[Memory]) -> Result<(), Failure> {
    if memory.len() > MOST_MEMORY {
        return Err(invalid(format!("more than {MOST_MEMORY} file systems in memory")));
    }
    for Memory { name, size } in memory {
        check_name(name, "name of a file system in memory")?;
        if !boot::is_guest() {
            let why = "only a guest has file systems that several containers mount";
            return Err(invalid(format!("{name}: {why}")));
        }
        let on = format!("{MEMORY}/{name}");
        if Path::new(&on).exists() {
            continue;
        }
        let failed = |why: String| system(format!("cannot mount a tmpfs on {on}: {why}"));
        std::fs::create_dir_all(&on).map_err(|error| failed(error.to_string()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let data = match size {
            0 => "mode=1777\0".to_owned(),
            size => format!("mode=1777,size={size}\0"),
        };
        let data = std::ffi::CStr::from_bytes_until_nul(data.as_bytes()).unwrap_or_default();
        let mount = || {
            rustix::mount::mount("tmpfs", &*on, "tmpfs", flags, data)?;
            // Processes that were made ahead have seen it; nothing in a container may be its peer.
            rustix::mount::mount_change(&*on, MountPropagationFlags::PRIVATE)
        };
        mount().map_err(|errno| {
            // Another try must not take the directory for the file system.
            let _ = std::fs::remove_dir(&on);
            failed(errno.to_string())
        })?;
    }
    Ok(())
}

/// Refuses while something is mounted from one of these devices: a mount has its device for itself.
pub(crate) fn release(devices: &[PathBuf]) -> Result<(), Failure> {
    for device in devices {
        let is_disk = rustix::fs::stat(device)
            .is_ok_and(|facts| FileType::from_raw_mode(facts.st_mode) == FileType::BlockDevice);
        if !is_disk {
            return Err(invalid(format!("{} is no block device", device.display())));
        }
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(device, flags, Mode::empty()) {
            Ok(_) => {}
            Err(Errno::BUSY) => {
                return Err(state(format!("{} is mounted", device.display())));
            }
            Err(errno) => {
                return Err(system(format!("cannot open {}: {errno}", device.display())));
            }
        }
    }
    Ok(())
}
