//! Makes processes: a builder that becomes a container's first process or one that joins it. All that can be checked and
//! computed is, before the process exists.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    process::PidfdFlags,
    thread::{CapabilitySet, ThreadNameSpaceType},
};

use crate::{
    cgroup::{self, Cgroup, Cgroups},
    child::{Init, Streams, Task},
    container::{Container, Facts, Process},
    error::{Error, at},
    identity::Identity,
    launch::{Launch, Launched, Work},
    mount::{self, Mounts, Nodes, Root},
    namespace::Namespaces,
    program::Program,
    seccomp::Filter,
    spec::{self, Linux, NamespaceType, Resources, Spec},
    sysctl::Sysctls,
    terminal::Size,
};

/// Where the engine runs.
#[derive(Debug)]
pub struct Platform {
    /// Where containers get their control groups; without one, limits are left out with a warning.
    pub cgroups: Option<Cgroups>,
    /// A directory with the directories `lower`, `upper` and `root`, on which roots of layers are put together.
    pub scratch: PathBuf,
    /// New processes share the agent's memory until they execute their program, when that is safe. Only for an agent
    /// that the kernel never kills for want of memory: it would take the sharers along.
    pub share_memory: bool,
    /// The container is alone in the agent's network namespace.
    pub owns_network: bool,
    capabilities: CapabilitySet,
    pub(crate) own_process: OwnedFd,
}

impl Platform {
    /// A platform without control groups that shares nothing.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn new(scratch: PathBuf) -> Result<Self, Error> {
        let own =
            rustix::thread::capabilities(None).map_err(at("read", "the agent's capabilities"))?;
        let own_process =
            rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
                .map_err(at("open", "the agent's own process"))?;
        Ok(Self {
            cgroups: None,
            scratch,
            share_memory: false,
            owns_network: false,
            capabilities: own.permitted,
            own_process,
        })
    }
}

/// The standard streams of a new process.
#[derive(Debug)]
pub enum Stdio {
    /// The process's ends of pipes, for standard input, output and error; absent ones become `/dev/null`.
    Files([Option<OwnedFd>; 3]),
    /// A pseudo terminal.
    Terminal,
}

/// A new container.
#[derive(Debug)]
pub struct Created {
    /// The container, whose first process waits to be started.
    pub container: Container,
    /// The terminal's master, when it has one.
    pub console: Option<OwnedFd>,
    /// A line for each limit that had to be left out.
    pub warnings: Vec<String>,
}

/// A process that joined a container, and its terminal's master when it has one.
#[derive(Debug)]
pub struct Joined {
    /// The process; its program runs.
    pub process: Process,
    /// The terminal's master.
    pub console: Option<OwnedFd>,
}

/// Makes one process.
#[derive(Debug)]
pub struct Builder<'a> {
    platform: &'a Platform,
    stdio: Stdio,
}

impl<'a> Builder<'a> {
    /// A builder of a process with these streams.
    #[must_use]
    pub fn new(platform: &'a Platform, stdio: Stdio) -> Self {
        Self { platform, stdio }
    }

    /// Makes a container up to the point where its first process waits to execute its program, which has been found
    /// (OCI runtime-spec, lifecycle, "created").
    ///
    /// # Errors
    /// All kinds of [`Error`]; nothing is left behind then.
    pub fn init(self, id: &str, spec: &Spec, root: Root) -> Result<Created, Error> {
        let Some(process) = &spec.process else {
            return Err(Error::invalid("process", "null", "config.json must have it"));
        };
        let fallback = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&fallback);
        let platform = self.platform;
        let namespaces = Namespaces::new(linux)?;
        let filter = linux.seccomp.as_ref().map(Filter::compile).transpose()?;
        let identity = Identity::new(process, filter.clone(), platform.capabilities)?;
        let can_trace = identity.can_trace();
        let share = platform.share_memory
            && !namespaces.new_user()
            && namespaces.time.is_none()
            && !namespaces.shares_processes();
        let facts = Facts {
            namespaces: Init::own_namespaces(&namespaces),
            pid_namespace: !namespaces.shares_processes() || namespaces.pid_path.is_some(),
            filter,
        };
        let init = plan(spec, linux, namespaces.clone(), root, platform)?;
        let (streams, descriptors) = streams(self.stdio, process);
        let program = Program::new(process)?;
        let task = Task::Init(Box::new(init));
        let work = Work { streams, task, identity, program, descriptors };
        let resources = linux.resources.as_ref();
        let (cgroup, warnings) =
            make_cgroup(platform, id, linux.cgroups_path.as_deref(), resources)?;
        // It waits until it has been put into its groups, while its maker works on.
        let enters = cgroup.as_ref().is_some_and(Cgroup::must_enter);
        let launch = Launch {
            platform,
            cgroup: cgroup.as_ref(),
            share: share && !enters,
            oom_score_adj: process.oom_score_adj,
        };
        let launched = launch.init(work, &namespaces).and_then(|launched| {
            let rules = resources.map_or(&[][..], |resources| &resources.devices);
            match cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.restrict_devices(rules)) {
                Ok(()) => Ok(launched),
                Err(error) => {
                    launched.process.end();
                    Err(error)
                }
            }
        });
        match launched {
            Ok(Launched { process, pending, console }) => {
                let container =
                    Container::new(id.to_owned(), process, cgroup, pending, facts, can_trace);
                Ok(Created { container, console, warnings })
            }
            Err(error) => {
                if let Some(cgroup) = &cgroup {
                    // The first error is what matters.
                    let _ = cgroup.remove();
                }
                Err(error)
            }
        }
    }

    /// Runs one more process in a running container, under the container's filter of system calls.
    ///
    /// # Errors
    /// All kinds of [`Error`].
    pub fn exec(self, container: &mut Container, process: &spec::Process) -> Result<Joined, Error> {
        let target = container.running()?;
        let platform = self.platform;
        let facts = container.facts();
        let identity = Identity::new(process, facts.filter.clone(), platform.capabilities)?;
        let can_trace = identity.can_trace();
        let apart = ThreadNameSpaceType::USER | ThreadNameSpaceType::TIME;
        let share = platform.share_memory
            && !container.cgroup().is_some_and(Cgroup::must_enter)
            && !container.can_trace()
            && !can_trace
            && !facts.namespaces.intersects(apart);
        let task = Task::Exec { target: target.as_raw_fd(), namespaces: facts.namespaces };
        let (streams, descriptors) = streams(self.stdio, process);
        let program = Program::new(process)?;
        let work = Work { streams, task, identity, program, descriptors };
        let launch = Launch {
            platform,
            cgroup: container.cgroup(),
            share,
            oom_score_adj: process.oom_score_adj,
        };
        let launched = launch.exec(work, facts.pid_namespace.then_some(target))?;
        launched.pending.start()?;
        if can_trace {
            container.set_can_trace();
        }
        Ok(Joined { process: launched.process, console: launched.console })
    }
}

fn streams(stdio: Stdio, process: &spec::Process) -> (Streams, Vec<OwnedFd>) {
    match stdio {
        Stdio::Files(files) => {
            let numbers = files.each_ref().map(|file| file.as_ref().map(AsRawFd::as_raw_fd));
            (Streams::Files(numbers), files.into_iter().flatten().collect())
        }
        Stdio::Terminal => {
            let size = process.console_size;
            let size = size.map(|size| Size { rows: size.height, columns: size.width });
            (Streams::Terminal(size), Vec::new())
        }
    }
}

fn make_cgroup(
    platform: &Platform,
    id: &str,
    path: Option<&str>,
    resources: Option<&Resources>,
) -> Result<(Option<Cgroup>, Vec<String>), Error> {
    let fallback = Resources::default();
    let resources = resources.unwrap_or(&fallback);
    match &platform.cgroups {
        Some(cgroups) => {
            cgroups.create(path, id, resources).map(|(cgroup, warnings)| (Some(cgroup), warnings))
        }
        None if cgroup::limits_anything(resources)? => Ok((
            None,
            vec![format!(
                "container {id}: linux.resources is not applied, because no cgroup hierarchy is mounted"
            )],
        )),
        None => Ok((None, Vec::new())),
    }
}

fn plan(
    spec: &Spec,
    linux: &Linux,
    namespaces: Namespaces,
    root: Root,
    platform: &Platform,
) -> Result<Init, Error> {
    let own_uts = |what, value: &Option<String>| match value {
        Some(name) if !name.is_empty() && !namespaces.has(NamespaceType::Uts) => {
            Err(Error::invalid(what, name, "it needs a uts namespace in linux.namespaces"))
        }
        Some(name) if !name.is_empty() => Ok(Some(name.clone())),
        _ => Ok(None),
    };
    let mounts = Mounts::new(&spec.mounts)?;
    let propagation = match linux.rootfs_propagation.as_deref() {
        None | Some("") => None,
        Some(name) => Some(mount::propagation(name).ok_or_else(|| {
            let why = "shared, slave, private or unbindable is wanted";
            Error::invalid("linux.rootfsPropagation", name, why)
        })?),
    };
    Ok(Init {
        hostname: own_uts("hostname", &spec.hostname)?,
        domainname: own_uts("domainname", &spec.domainname)?,
        sysctls: Sysctls::new(&linux.sysctl, &namespaces, platform.owns_network)?,
        nodes: (!mounts.binds("/dev")).then(|| Nodes::new(&linux.devices)),
        mounts,
        root,
        scratch: platform.scratch.clone(),
        masked_paths: linux.masked_paths.clone(),
        read_only_paths: linux.readonly_paths.clone(),
        read_only_root: spec.root.as_ref().is_some_and(|root| root.readonly),
        propagation,
        namespaces,
    })
}
