//! Isolation by this host's kernel: the engine runs in the caller's process, and nothing of Bulkhead's stays behind but
//! the container's own first process, a child of the caller.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bulkhead_container::{
    Builder, Cgroups, Kind, Platform, Stdio, hooks,
    spec::{self, Resources},
};
use bulkhead_protocol::{ProcessInfo, Stats};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::Pid,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Create, Created, Exec, Held, OomEvents, Root, Sandbox, SandboxError, Spawned, Status,
    Uncommitted, config,
};

/// What another process needs to reach the container.
pub type Record = bulkhead_container::Record;

/// Where the container's first process waits to be started, in the state directory.
const GATE: &str = "start.sock";
/// Starters that wait to be heard.
const BACKLOG: i32 = 4;
/// How long a process that has lost its maker may take to end.
const DYING: Duration = Duration::from_secs(10);
/// The end of a cgroup is noticed after this time at the latest.
const OOM_CHECK: Duration = Duration::from_secs(1);
/// The longest path of a Unix socket's address (unix(7)), and the zero behind it.
const MAX_ADDRESS: usize = 108;

/// A container whose first process ends with this one until it is committed.
#[derive(Debug)]
pub(super) struct Detached(bulkhead_container::Detached);

impl Detached {
    pub(super) fn commit(self) -> Result<Spawned, SandboxError> {
        let (process, master) = self.0.commit()?;
        Ok(Spawned { pid: process.pid(), master })
    }
}

pub(super) fn create(create: &Create<'_>) -> Result<Created, SandboxError> {
    if !matches!(create.root, Root::Bundle) {
        let why = "an image's layers are for a microVM; host isolation takes a bundle with a root directory";
        return Err(SandboxError::Unsupported(why.into()));
    }
    if create.systemd_cgroup {
        let why = "--systemd-cgroup: cgroups are made in the file system here, not by systemd; leave it out";
        return Err(SandboxError::Unsupported(why.into()));
    }
    let spec = create.config.spec();
    let root = bulkhead_container::root_directory(spec, create.bundle)?;
    let platform = Platform::host(create.dir.join("scratch"))?;
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    let state = hooks::State::new(create.id, &create.bundle.to_string_lossy(), spec);
    let detached = Builder::new(&platform, stdio(terminal))
        .preserve_descriptors(create.preserve_fds)
        .session_keyring(!create.no_new_keyring)
        .without_pivot(create.no_pivot)
        .state(state)
        .detached(create.id, spec, bulkhead_container::Root::Directory(root), gate(create.dir)?)?;
    let record = copy(&detached.record)?;
    let warnings = detached.warnings.clone();
    let process = Uncommitted(Held::Host(Box::new(Detached(detached))));
    Ok(Created { record: super::Record::Host(record), process, warnings })
}

fn copy(record: &Record) -> Result<Record, SandboxError> {
    serde_json::to_vec(record).and_then(|text| serde_json::from_slice(&text)).map_err(|error| {
        SandboxError::Failed(format!("cannot keep the container's record: {error}"))
    })
}

fn stdio(terminal: bool) -> Stdio {
    if terminal { Stdio::Terminal } else { Stdio::Inherited }
}

/// Nothing but a cgroup can be left: the container's process ends with a maker that has not let it go.
pub(super) fn remove_remains(id: &str, cgroups_path: Option<&str>) -> Result<(), SandboxError> {
    let Some(cgroups) = Cgroups::host()? else { return Ok(()) };
    let begun = Instant::now();
    loop {
        // Takes the place of an empty group, and never that of one in which somebody is.
        match cgroups.create(cgroups_path, id, &Resources::default()) {
            Ok((cgroup, _)) => return Ok(cgroup.remove()?),
            Err(error) if error.kind() != Kind::State || begun.elapsed() > DYING => {
                return Err(error.into());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The gate's path and what keeps it valid: a state directory's path may be too long for an address.
fn gate_path(dir: &Path) -> Result<(PathBuf, Option<OwnedFd>), SandboxError> {
    let path = dir.join(GATE);
    if path.as_os_str().len() < MAX_ADDRESS {
        return Ok((path, None));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed("open", dir))?;
    Ok((format!("/proc/self/fd/{}/{GATE}", fd.as_raw_fd()).into(), Some(fd)))
}

fn gate(dir: &Path) -> Result<OwnedFd, SandboxError> {
    let (path, _dir) = gate_path(dir)?;
    let listen = || {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    listen().map_err(failed("make a socket in", dir))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> SandboxError {
    move |errno| SandboxError::Failed(format!("cannot {action} {}: {errno}", path.display()))
}

/// A container on the host's kernel.
#[derive(Debug)]
pub(super) struct Host<'a> {
    record: &'a Record,
    dir: &'a Path,
}

pub(super) fn open<'a>(record: &'a Record, dir: &'a Path) -> Host<'a> {
    Host { record, dir }
}

impl Sandbox for Host<'_> {
    fn status(&self) -> Result<Status, SandboxError> {
        if !self.record.is_alive()? {
            return Ok(Status::Stopped);
        }
        if self.record.is_frozen() {
            return Ok(Status::Paused);
        }
        let (gate, _dir) = gate_path(self.dir)?;
        Ok(if self.record.is_waiting(&gate)? { Status::Created } else { Status::Running })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.record.pid()).unwrap_or(Pid::INIT)
    }

    fn start(&self) -> Result<(), SandboxError> {
        let (gate, _dir) = gate_path(self.dir)?;
        self.record.start(&gate)?;
        // Nobody waits behind it any more; without it, the next one who asks need not knock.
        let _ = rustix::fs::unlinkat(CWD, &gate, AtFlags::empty());
        Ok(())
    }

    fn kill(&self, signal: i32, all: bool) -> Result<(), SandboxError> {
        let record = self.record;
        if all { record.signal_all(signal) } else { record.signal(signal) }?;
        Ok(())
    }

    fn exec(&self, exec: &Exec<'_>) -> Result<Spawned, SandboxError> {
        if let Some(cgroup) = exec.cgroup {
            let why = "the process joins the container's own cgroup; leave the option out";
            return Err(SandboxError::Unsupported(format!("--cgroup {cgroup}: {why}")));
        }
        let process: spec::Process = part(exec.process, "process")?;
        let platform = Platform::new(self.dir.join("scratch"))?;
        let joined = Builder::new(&platform, stdio(process.terminal))
            .preserve_descriptors(exec.preserve_fds)
            .join(self.record, &process)?;
        Ok(Spawned { pid: joined.process.pid(), master: joined.console })
    }

    fn pause(&self) -> Result<(), SandboxError> {
        Ok(self.record.freeze()?)
    }

    fn resume(&self) -> Result<(), SandboxError> {
        Ok(self.record.thaw()?)
    }

    fn update(&self, resources: &Value) -> Result<Vec<String>, SandboxError> {
        let resources: Resources = part(resources, "resources")?;
        Ok(self.record.update(&resources)?)
    }

    fn stats(&self) -> Result<Stats, SandboxError> {
        Ok(self.record.stats()?)
    }

    fn processes(&self) -> Result<Vec<ProcessInfo>, SandboxError> {
        Ok(self.record.cgroup().map_or(Ok(Vec::new()), |cgroup| cgroup.process_table(true))?)
    }

    fn oom_events(&self) -> Result<OomEvents, SandboxError> {
        let cgroup = self.record.cgroup().ok_or_else(|| {
            SandboxError::Unsupported("there are no cgroups here, and so no events".into())
        })?;
        let mut events = cgroup.oom_events()?;
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                match events.wait(OOM_CHECK) {
                    Ok(Some(0)) => {}
                    Ok(None) => return None,
                    news => return Some(news.map(drop).map_err(SandboxError::from)),
                }
            }
        })))
    }

    fn oom_killed(&self) -> Result<bool, SandboxError> {
        Ok(self.record.cgroup().is_some_and(bulkhead_container::Cgroup::oom_killed))
    }

    fn remove(&self) -> Result<(), SandboxError> {
        Ok(self.record.remove()?)
    }
}

fn part<'a, T: Deserialize<'a>>(value: &'a Value, what: &str) -> Result<T, SandboxError> {
    Ok(config::from_value(value, what)?)
}
