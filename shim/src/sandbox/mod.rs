//! A sandbox: what isolates a container. Two kinds behind one seam: [`host`], namespaces and cgroups of this host's
//! kernel, and [`vm`], a microVM. In both, [`create`] and [`Sandbox::exec`] make a child of the calling process that ends
//! with the code of the container's process, so that whoever reaps it (the caller, conmon, a containerd shim) learns it.

mod changes;
mod config;
mod error;
pub mod host;
pub mod vm;

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use bulkhead_protocol::{ProcessInfo, Stats};
pub use changes::changes;
pub use config::{Config, ConfigError};
pub use error::SandboxError;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::Pid,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::{settings::Isolation, template::Wish};

/// A child of the calling process that stands for a process of a container and ends with its code: 128 and the signal's
/// number when a signal ended it.
#[derive(Debug)]
pub struct Spawned {
    /// Its number.
    pub pid: Pid,
    /// The master of its terminal, when the process has one.
    pub master: Option<OwnedFd>,
}

/// What a container does (OCI runtime-spec, runtime.md, "State"; `paused` is runc's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It is being made, or was when its maker was killed.
    Creating,
    /// Its first process waits to execute its program.
    Created,
    /// Its program runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl Status {
    /// The specification's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container's sandbox, reached by any process through the container's state directory.
pub trait Sandbox {
    /// The truth now, from processes and sockets; never only what a file says.
    ///
    /// # Errors
    /// [`SandboxError`] when it cannot be found out.
    fn status(&self) -> Result<Status, SandboxError>;

    /// The container's first process on the host: that of [`Spawned`].
    fn pid(&self) -> Pid;

    /// Lets the first process execute its program, and waits for execve's result.
    ///
    /// # Errors
    /// [`SandboxError`]; the container has stopped then.
    fn start(&self) -> Result<(), SandboxError>;

    /// Sends a signal to the first process, or to all.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn kill(&self, signal: i32, all: bool) -> Result<(), SandboxError>;

    /// Runs one more process (OCI runtime-spec, config.md, "Process") with the caller's standard streams, unless it gets
    /// a terminal, and waits until its program is executed.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn exec(&self, exec: &Exec<'_>) -> Result<Spawned, SandboxError>;

    /// Freezes all processes.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn pause(&self) -> Result<(), SandboxError>;

    /// Thaws them.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn resume(&self) -> Result<(), SandboxError>;

    /// Changes limits: `linux.resources` with what is to change. Returns a line for each thing that was left out.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn update(&self, resources: &Value) -> Result<Vec<String>, SandboxError>;

    /// What it uses.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn stats(&self) -> Result<Stats, SandboxError>;

    /// Its processes.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn processes(&self) -> Result<Vec<ProcessInfo>, SandboxError>;

    /// Waits for processes that are killed for want of memory; ends with the container.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn oom_events(&self) -> Result<OomEvents, SandboxError>;

    /// A process was killed for want of memory, now or before the end.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn oom_killed(&self) -> Result<bool, SandboxError>;

    /// Ends what only waits for somebody to take the output of a program that has ended; the program's exit code. None: nothing waits.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn abandon_output(&self) -> Result<Option<u8>, SandboxError> {
        Ok(None)
    }

    /// Removes what is left: processes, cgroup, mounts, sockets. Works after any process was killed at any moment; the
    /// state directory itself is the caller's.
    ///
    /// # Errors
    /// [`SandboxError`].
    fn remove(&self) -> Result<(), SandboxError>;
}

/// Each item is one more time that processes were killed for want of memory.
pub type OomEvents = Box<dyn Iterator<Item = Result<(), SandboxError>> + Send>;

/// How one more process is made.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The process.
    pub process: &'a Value,
    /// So many descriptors from 3 on go to the process.
    pub preserve_fds: u32,
    /// A cgroup below the container's own, by path or `controller:path`.
    pub cgroup: Option<&'a str>,
}

/// What a container is made of.
#[derive(Debug)]
pub struct Create<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its state directory, which exists and is locked.
    pub dir: &'a Path,
    /// Its bundle, an absolute path.
    pub bundle: &'a Path,
    /// Its configuration.
    pub config: &'a Config,
    /// Where its root file system comes from.
    pub root: Root,
    /// So many descriptors from 3 on go to its process.
    pub preserve_fds: u32,
    /// The root is entered without pivot_root(2).
    pub no_pivot: bool,
    /// Its process keeps the caller's session keyring.
    pub no_new_keyring: bool,
    /// `linux.cgroupsPath` has systemd's form.
    pub systemd_cgroup: bool,
    /// Whether its microVM is a clone, and of what.
    pub template: Wish<'a>,
    /// The reading end of a pipe: a microVM ends when the other end closes.
    pub owner: Option<BorrowedFd<'a>>,
}

/// Where a root file system comes from.
#[derive(Debug, Clone)]
pub enum Root {
    /// `root.path`, below the bundle when it is relative.
    Bundle,
    /// An image's layers, for a microVM.
    Layers {
        /// The image's files, in order.
        image: Vec<PathBuf>,
        /// The writable layer; absent: the root's writes stay in memory.
        writable: Option<PathBuf>,
        /// The machine.
        machine: MachineOptions,
    },
    /// Mounts that make the root when they are made in this order, for a microVM: what [`vm::takes`] of them can be had without being mounted on
    /// the host.
    Mounts(Vec<Mount>),
}

/// A mount as containerd's snapshotters give it (containerd's `api/types/mount.proto`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `overlay`, `bind`, `ext4`, `erofs`, ….
    #[serde(rename = "type")]
    pub kind: String,
    /// A device, file or directory; a word that means nothing for `overlay`.
    pub source: String,
    /// Where below the root, empty for the root itself.
    #[serde(default)]
    pub target: String,
    /// As of mount(8): `ro`, `lowerdir=…`, ….
    #[serde(default)]
    pub options: Vec<String>,
}

/// What somebody wants of a microVM; absent: what the specification's limits and the settings say.
#[derive(Debug, Clone, Default)]
pub struct MachineOptions {
    /// Its memory.
    pub memory_mib: Option<u64>,
    /// Its processors.
    pub vcpus: Option<u8>,
    /// Its kernel.
    pub kernel: Option<PathBuf>,
    /// Where its console goes.
    pub console_log: Option<PathBuf>,
}

/// What the state file keeps of a sandbox, from which [`open`] reaches it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// Of a container on the host's kernel.
    Host(host::Record),
    /// Of a microVM.
    Vm(vm::Record),
}

/// A container that waits to be started.
#[derive(Debug)]
pub struct Created {
    /// What the state file has to keep.
    pub record: Record,
    /// The container's process.
    pub process: Uncommitted,
    /// A line for each thing that was left out.
    pub warnings: Vec<String>,
}

/// A container's process that ends with its maker until [`Uncommitted::commit`].
#[derive(Debug)]
pub struct Uncommitted(Held);

#[derive(Debug)]
enum Held {
    Host(Box<host::Detached>),
    Vm(Spawned),
}

impl Uncommitted {
    /// The record is in the state file: from now on the container outlives this process.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn commit(self) -> Result<Spawned, SandboxError> {
        match self.0 {
            Held::Host(detached) => detached.commit(),
            // Its monitor has noted by itself what `remains` needs.
            Held::Vm(spawned) => Ok(spawned),
        }
    }
}

/// Sees to it that containers cannot write to this program. To be called before anything is made or joined, and before there are
/// threads: where the kernel's namespaces are the only wall, the program is executed anew from a read-only mount, with the same arguments.
///
/// # Errors
/// [`SandboxError::Failed`].
pub fn keep_from_containers(isolation: Isolation) -> Result<(), SandboxError> {
    match isolation {
        Isolation::Host => Ok(bulkhead_container::run_from_read_only()?),
        Isolation::Vm => Ok(()),
    }
}

/// Whether the other end of an owner's pipe is closed.
#[must_use]
pub fn has_hung_up(owner: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(owner, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut asked, Some(&now)).is_ok()
        && asked.iter().any(|asked| asked.revents().contains(PollFlags::HUP))
}

/// Makes a container.
///
/// # Errors
/// [`SandboxError`]; nothing is left then.
pub fn create(isolation: Isolation, create: &Create<'_>) -> Result<Created, SandboxError> {
    match isolation {
        Isolation::Host => host::create(create),
        Isolation::Vm => {
            let (record, spawned, warnings) = vm::create(create)?;
            let process = Uncommitted(Held::Vm(spawned));
            Ok(Created { record: Record::Vm(record), process, warnings })
        }
    }
}

/// Reaches the sandbox of a container whose state directory this is.
///
/// # Errors
/// [`SandboxError`].
pub fn open<'a>(record: &'a Record, dir: &'a Path) -> Result<Box<dyn Sandbox + 'a>, SandboxError> {
    match record {
        Record::Host(record) => Ok(Box::new(host::open(record, dir))),
        Record::Vm(record) => Ok(Box::new(vm::open(record, dir)?)),
    }
}

/// Removes what is left of a container whose maker was killed before the record was in the state file.
///
/// # Errors
/// [`SandboxError`].
pub fn remove_remains(
    isolation: Isolation,
    id: &str,
    dir: &Path,
    cgroups_path: Option<&str>,
) -> Result<(), SandboxError> {
    match isolation {
        Isolation::Host => host::remove_remains(id, cgroups_path),
        Isolation::Vm => match vm::remains(dir)? {
            Some(record) => vm::open(&record, dir)?.remove(),
            None => Ok(()),
        },
    }
}
