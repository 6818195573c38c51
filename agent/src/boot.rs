//! The two places an agent runs in: what a guest's first process has to set up and end, and what a host process does
//! instead.

use std::{fmt::Display, path::PathBuf};

use bulkhead_container::{Cgroups, Platform, loopback_up};
use bulkhead_protocol::Failure;
use rustix::{
    fs::{Access, Mode, OFlags},
    io::Errno,
    mount::MountFlags,
    process::DumpableBehavior,
    system::RebootCommand,
};

use crate::{
    answer::system,
    fault::{Fault, to},
    link::Link,
    server::Server,
};

/// Where roots of layers are put together.
const SCRATCH: &str = "/run/bulkhead";
const CGROUPS: &str = "/sys/fs/cgroup";

/// Sets a guest up. The monitor is told as early as possible: what it does then and the mounts here overlap.
pub(crate) fn guest() -> Result<Server, Fault> {
    standard_streams()?;
    hide()?;
    let platform = Platform::new(PathBuf::from(SCRATCH))?;
    let mut server = Server::connect(Link::Vsock, platform)?;
    own_root()?;
    mount("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC)?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("cgroup2", CGROUPS, quiet)?;
    loopback_up()?;
    let platform = server.platform();
    platform.cgroups = Some(Cgroups::guest(CGROUPS)?);
    platform.share_memory = true;
    platform.owns_network = true;
    Ok(server)
}

/// Sets a host process up: it works with what the host has, and takes care of processes that lose their parents.
pub(crate) fn host(link: Link) -> Result<Server, Fault> {
    hide()?;
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).map_err(to("become a subreaper"))?;
    let mut platform = Platform::new(PathBuf::from(SCRATCH))?;
    platform.cgroups = Cgroups::host()?;
    platform.share_memory = own.is_init();
    Server::connect(link, platform)
}

/// Ends a guest in good order.
pub(crate) fn power_off() -> Fault {
    // A machine without a power switch is ended by its reset.
    let refused = rustix::system::reboot(RebootCommand::PowerOff)
        .and_then(|()| rustix::system::reboot(RebootCommand::Restart));
    to("power off")(refused.err().unwrap_or(Errno::NOSYS))
}

/// One line for the administrator: the guest kernel's log, or standard error.
pub(crate) fn log(line: &impl Display) {
    let text = format!("bulkhead-agent: {line}\n");
    // Nobody to tell when this fails.
    if is_guest() {
        let path = "/dev/kmsg";
        let open = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let _ = open.and_then(|kmsg| rustix::io::write(kmsg, text.as_bytes()));
    } else {
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    }
}

/// Kills every process that there is, where all of them are the agent's.
pub(crate) fn kill_all() {
    if is_guest() {
        // None may be left.
        // SAFETY: takes no pointers.
        let _ = unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Writes every file system back, where all of them are the agent's.
pub(crate) fn sync() {
    if is_guest() {
        rustix::fs::sync();
    }
}

/// The agent is a guest's first process.
pub(crate) fn is_guest() -> bool {
    rustix::process::getpid().is_init()
}

/// Mounts `/proc` where nobody has yet. Returns whether the pids in it are the host's.
pub(crate) fn needs_proc() -> Result<bool, Failure> {
    if !is_guest() {
        return Ok(true);
    }
    if rustix::fs::access("/proc/self", Access::EXISTS) == Err(Errno::NOENT) {
        let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("proc", "/proc", "proc", quiet, None)
            .map_err(|errno| system(format!("cannot mount /proc: {errno}")))?;
    }
    Ok(false)
}

/// Mounts what a container with a user namespace mounts again: the kernel allows it there only what its maker sees whole
/// (`mount_too_revealing` in fs/namespace.c).
pub(crate) fn show_kernel_file_systems() -> Result<(), Failure> {
    const SYS: &str = "/run/bulkhead/sys";
    if needs_proc()? || rustix::fs::access(format!("{SYS}/kernel"), Access::EXISTS).is_ok() {
        return Ok(());
    }
    let failed = |why: String| system(format!("cannot mount {SYS}: {why}"));
    std::fs::create_dir_all(SYS).map_err(|error| failed(error.to_string()))?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("sysfs", SYS, "sysfs", quiet, None)
        .map_err(|errno| failed(errno.to_string()))
}

/// Without a console, the kernel starts the first process with its standard streams closed; their numbers must not be
/// given to something else.
fn standard_streams() -> Result<(), Fault> {
    while rustix::io::fcntl_getfd(rustix::stdio::stderr()).is_err() {
        let placeholder = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty())
            .map_err(to("fill the standard streams"))?;
        std::mem::forget(placeholder);
    }
    Ok(())
}

/// Containers must not look into the agent's memory or open its program (ptrace(2), CVE-2019-5736).
fn hide() -> Result<(), Fault> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(to("become non-dumpable"))
}

/// The initial root file system cannot be left with pivot_root(2), but a mount of it over itself can.
fn own_root() -> Result<(), Fault> {
    rustix::mount::mount_bind("/", "/")
        .and_then(|()| rustix::process::chroot("/.."))
        .map_err(to("make a root that can be left"))
}

fn mount(kind: &'static str, on: &'static str, flags: MountFlags) -> Result<(), Fault> {
    let mount = || rustix::mount::mount(kind, on, kind, flags, None);
    let mounted = match mount() {
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(on).map_err(|error| {
                to("make a mount point")(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })?;
            mount()
        }
        mounted => mounted,
    };
    mounted.map_err(to(match kind {
        "devtmpfs" => "mount devtmpfs on /dev",
        _ => "mount cgroup2 on /sys/fs/cgroup",
    }))
}
