//! Makes processes: a builder that becomes a container's first process or one that joins it. All that can be checked and
//! computed is, before the process exists.

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    process::{Pid, PidfdFlags},
    thread::{CapabilitySet, ThreadNameSpaceType},
};

use crate::{
    affinity::Affinity,
    capability,
    cgroup::{self, Cgroup, Cgroups},
    check::check_name,
    child::{Init, InitHooks, Streams, Task},
    container::{Container, Facts, Process},
    descriptors,
    error::{Error, at},
    hooks,
    hooks::State,
    identity::Identity,
    idmap,
    launch::{Launch, Launched, Work},
    likeness,
    lsm::Label,
    mount::{self, Entry, Mounts, Nodes, Root, RootMount},
    namespace::Namespaces,
    personality, procfs,
    program::Program,
    record::Record,
    rlimit::Limits,
    seccomp::Filter,
    spare::Spare,
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

impl Platform {
    /// A host, with the control groups that it has.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn host(scratch: PathBuf) -> Result<Self, Error> {
        Ok(Self { cgroups: Cgroups::host()?, ..Self::new(scratch)? })
    }

    /// The capabilities that a process of this specification gets.
    pub(crate) fn sets(&self, process: &spec::Process) -> capability::Sets {
        capability::Sets::new(process.capabilities.as_ref(), self.capabilities)
    }

    /// The maker is the first process of a guest, and the kernel is the container's own.
    fn is_guest(&self) -> bool {
        self.owns_network
    }

    /// A guest's kernel has no security modules with labels.
    fn label(&self, process: &spec::Process, warnings: &mut Vec<String>) -> Option<Label> {
        let label = Label::new(process)?;
        if self.is_guest() {
            warnings.push(format!("{label} is left out: a guest's kernel has no such labels"));
            return None;
        }
        Some(label)
    }
}

/// The standard streams of a new process.
#[derive(Debug)]
pub enum Stdio {
    /// Those of the calling process.
    Inherited,
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
    /// A line for each property that had to be left out.
    pub warnings: Vec<String>,
    /// Its process was made ahead, with so many of its mounts.
    pub mounts_ahead: Option<usize>,
}

/// A process that joined a container, and its terminal's master when it has one.
#[derive(Debug)]
pub struct Joined {
    /// The process; its program runs.
    pub process: Process,
    /// The terminal's master.
    pub console: Option<OwnedFd>,
    /// A line for each property that had to be left out.
    pub warnings: Vec<String>,
}

/// Makes one process.
#[derive(Debug)]
pub struct Builder<'a> {
    pub(crate) platform: &'a Platform,
    stdio: Stdio,
    preserved: u32,
    pub(crate) keyring: bool,
    pub(crate) entry: Entry,
    state: Option<State>,
    spare: Option<&'a mut Spare>,
}

/// A container whose first process waits, as the engine sees it.
pub(crate) struct Made {
    pub(crate) launched: Launched,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) facts: Facts,
    pub(crate) can_trace: bool,
    pub(crate) warnings: Vec<String>,
    pub(crate) mounts_ahead: Option<usize>,
}

impl<'a> Builder<'a> {
    /// A builder of a process with these streams.
    #[must_use]
    pub fn new(platform: &'a Platform, stdio: Stdio) -> Self {
        let entry = Entry::Pivot;
        Self { platform, stdio, preserved: 0, keyring: false, entry, state: None, spare: None }
    }

    /// The program also gets the `count` descriptors of this process that follow the standard streams.
    #[must_use]
    pub fn preserve_descriptors(self, count: u32) -> Self {
        Self { preserved: count, ..self }
    }

    /// The container has a session keyring of its own (keyrings(7)).
    #[must_use]
    pub fn session_keyring(self, own: bool) -> Self {
        Self { keyring: own, ..self }
    }

    /// The root is moved over the old one, which stays: for where pivot_root(2) does not work.
    #[must_use]
    pub fn without_pivot(self, without: bool) -> Self {
        Self { entry: if without { Entry::Move } else { Entry::Pivot }, ..self }
    }

    /// A process that may be taken for the container's first one, when it is what that wants.
    #[must_use]
    pub fn spare(self, spare: Option<&'a mut Spare>) -> Self {
        Self { spare, ..self }
    }

    /// What hooks get to know of the container; without it, they get its id and annotations.
    #[must_use]
    pub fn state(self, state: State) -> Self {
        Self { state: Some(state), ..self }
    }

    /// Makes a container up to the point where its first process waits to execute its program, which has been found
    /// (OCI runtime-spec, lifecycle, "created"). Of the hooks, only `startContainer` ones are run, by that process: the
    /// others' programs and namespaces are on the host.
    ///
    /// # Errors
    /// All kinds of [`Error`]; nothing is left behind then.
    pub fn init(self, id: &str, spec: &Spec, root: Root) -> Result<Created, Error> {
        let made = self.make(id, spec, root, None)?;
        let Made { launched, cgroup, facts, can_trace, warnings, mounts_ahead } = made;
        let Launched { process, pending, console } = launched;
        let container = Container::new(id.to_owned(), process, cgroup, pending, facts, can_trace);
        Ok(Created { container, console, warnings, mounts_ahead })
    }

    /// `gate`: where the process waits to be started, when that is not its maker's to do; the maker's hooks and those
    /// before the entry into the root are then run, too.
    pub(crate) fn make(
        self,
        id: &str,
        spec: &Spec,
        root: Root,
        gate: Option<OwnedFd>,
    ) -> Result<Made, Error> {
        let Some(process) = &spec.process else {
            return Err(Error::invalid("process", "null", "config.json must have it"));
        };
        let fallback = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&fallback);
        let platform = self.platform;
        let namespaces = Namespaces::new(linux)?;
        let filter = linux.seccomp.as_ref().map(Filter::compile).transpose()?;
        let personality = linux.personality.as_ref().map(personality::parse).transpose()?;
        let mut identity = Identity::new(process, filter.clone(), platform.capabilities)?
            .with_personality(personality);
        let can_trace = identity.can_trace();
        let no_hooks = spec::Hooks::default();
        let hooks = spec.hooks.as_ref().unwrap_or(&no_hooks);
        let share = platform.share_memory
            && gate.is_none()
            && hooks.start_container.is_empty()
            && !namespaces.new_user()
            && !namespaces.has_time()
            && !namespaces.needs_forerunner()
            && !namespaces.shares_processes();
        let entry = if namespaces.new_mount() { self.entry } else { Entry::Chroot };
        let mut facts = Facts {
            namespaces: Init::own_namespaces(&namespaces),
            pid_namespace: !namespaces.shares_processes() || namespaces.pid.is_some(),
            chroot: entry == Entry::Chroot,
            root_mount: None,
            keyring: self.keyring,
            personality,
            filter,
        };
        let state = self.state.unwrap_or_else(|| State::new(id, "/", spec));
        let by_maker = if gate.is_some() {
            [(&hooks.prestart, "prestart"), (&hooks.create_runtime, "createRuntime")]
        } else {
            [(&no_hooks.prestart, "prestart"), (&no_hooks.create_runtime, "createRuntime")]
        };
        let run_hooks = |pid: Pid| {
            let json = state.json("creating", Some(pid.as_raw_nonzero().get()));
            by_maker.iter().try_for_each(|(hooks, which)| hooks::run(hooks, &json, which))
        };
        // Nobody else will unmount what is made in a mount namespace that the maker is in.
        let in_own = entry == Entry::Chroot && !namespaces.has(NamespaceType::Mount);
        let root_mount = match &root {
            Root::Directory(path) if in_own => Some(RootMount::before(path)?),
            _ => None,
        };
        let mut init = plan(spec, linux, namespaces.clone(), root, platform, state.bundle())?;
        init.entry = entry;
        let spare = self.spare.filter(|_| share && entry == Entry::Pivot);
        let mut ahead = spare.and_then(|spare| spare.take(platform, spec, linux, &mut init));
        init.gate = gate.as_ref().map(AsRawFd::as_raw_fd);
        init.hooks = InitHooks {
            maker_has_some: by_maker.iter().any(|(hooks, _)| !hooks.is_empty()),
            create_container: gate.as_ref().map_or(Vec::new(), |_| hooks.create_container.clone()),
            start_container: hooks.start_container.clone(),
            state: state.clone(),
            environment: process.env.clone(),
        };
        if let Some(bounding) = ahead.as_ref().and_then(Spare::bounding) {
            identity = identity.made_ahead(bounding);
        }
        let mounts_ahead = init.ahead.map(|ahead| ahead.mounts);
        let (streams, mut descriptors) = streams(self.stdio, process);
        if let Some(uid) = namespaces.maps.user_outside(process.user.uid) {
            descriptors::give_pipes(&streams, uid)?;
        }
        descriptors.extend(gate);
        let own_maps = namespaces.new_user().then_some(&namespaces.maps);
        descriptors.extend(init.mounts.open_mapped(own_maps)?);
        let program = Program::new(process)?;
        let resources = linux.resources.as_ref();
        let mut warnings =
            process.capabilities.as_ref().map(capability::warnings).unwrap_or_default();
        let label = platform.label(process, &mut warnings);
        let in_user = namespaces.has(NamespaceType::User);
        let limits = if in_user { identity.take_limits() } else { Limits::default() };
        if platform.is_guest() && !in_user {
            identity = identity.made_by_plain_root();
        }
        let path = linux.cgroups_path.as_deref();
        let (cgroup, left_out, filter) = match &mut ahead {
            Some(ahead) if namespaces.has_cgroup() => {
                let left_out = limit(platform, ahead.cgroup(), resources)?;
                let (cgroup, filter) = ahead.take_group(id, likeness::rules(linux));
                (cgroup, left_out, filter)
            }
            ahead => {
                let (cgroup, left_out) = make_cgroup(platform, id, path, resources)?;
                // The other group goes with the guest: nobody sees it.
                let filter = ahead.as_mut().and_then(|ahead| {
                    let (_, filter) = ahead.take_group(id, likeness::rules(linux));
                    filter
                });
                (cgroup, left_out, filter)
            }
        };
        warnings.extend(left_out);
        init.mounts.show_groups(mount::groups(cgroup.as_ref()), namespaces.has_cgroup());
        let work = Work {
            streams,
            task: Task::Init(Box::new(init)),
            identity,
            program,
            preserved: self.preserved,
            keyring: keyring(id, self.keyring),
            label,
            affinity: Affinity::default(),
            descriptors,
        };
        let launch = Launch {
            platform,
            cgroup: cgroup.as_ref(),
            share,
            oom_score_adj: process.oom_score_adj,
            limits,
            hooks: Some(&run_hooks),
        };
        let launched = match ahead {
            Some(ahead) => launch.take(work, ahead, !namespaces.has_cgroup()),
            None => launch.init(work, &namespaces),
        };
        let launched = launched.and_then(|launched| {
            let restricted = match (&cgroup, &filter) {
                (Some(cgroup), Some(filter)) => cgroup.filter_devices(filter),
                (Some(cgroup), None) => cgroup.restrict_devices(likeness::rules(linux)),
                (None, _) => Ok(()),
            };
            match restricted {
                Ok(()) => {
                    facts.root_mount = root_mount.clone().map(RootMount::after).transpose()?;
                    Ok(launched)
                }
                Err(error) => {
                    launched.process.end();
                    Err(error)
                }
            }
        });
        match launched {
            Ok(launched) => Ok(Made { launched, cgroup, facts, can_trace, warnings, mounts_ahead }),
            Err(error) => {
                if let Some(cgroup) = &cgroup {
                    // The first error is what matters.
                    let _ = cgroup.remove();
                }
                if let Some(mount) = root_mount {
                    let _ = mount.undo();
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
        let traced = container.can_trace();
        let (joined, can_trace) = self.add(
            container.id(),
            target,
            container.facts(),
            container.cgroup(),
            traced,
            process,
        )?;
        if can_trace {
            container.set_can_trace();
        }
        Ok(joined)
    }

    /// Runs one more process in a container that another process may have made. Whether it has been started is the
    /// caller's to know.
    ///
    /// # Errors
    /// [`Error::State`] when the container has stopped; all kinds of [`Error`].
    pub fn join(self, record: &Record, process: &spec::Process) -> Result<Joined, Error> {
        let target = record.open()?;
        let (id, facts) = (&record.id, &record.facts);
        let cgroup = record.cgroup.as_ref();
        self.add(id, target.as_fd(), facts, cgroup, true, process).map(|(joined, _)| joined)
    }

    /// `traced`: some process of the container could look into the new one's memory.
    fn add(
        self,
        id: &str,
        target: BorrowedFd<'_>,
        facts: &Facts,
        cgroup: Option<&Cgroup>,
        traced: bool,
        process: &spec::Process,
    ) -> Result<(Joined, bool), Error> {
        let platform = self.platform;
        let mut identity = Identity::new(process, facts.filter.clone(), platform.capabilities)?
            .with_personality(facts.personality);
        let in_user = facts.namespaces.contains(ThreadNameSpaceType::USER);
        let limits = if in_user { identity.take_limits() } else { Limits::default() };
        if platform.is_guest() && !in_user {
            identity = identity.made_by_plain_root();
        }
        let mut warnings =
            process.capabilities.as_ref().map(capability::warnings).unwrap_or_default();
        let label = platform.label(process, &mut warnings);
        let can_trace = identity.can_trace();
        let apart = ThreadNameSpaceType::USER | ThreadNameSpaceType::TIME;
        let share =
            platform.share_memory && !traced && !can_trace && !facts.namespaces.intersects(apart);
        let root = if facts.chroot { Some(procfs::root_of(target)?) } else { None };
        let task = Task::Exec {
            target: target.as_raw_fd(),
            namespaces: facts.namespaces,
            root: root.as_ref().map(AsRawFd::as_raw_fd),
        };
        let (streams, mut descriptors) = streams(self.stdio, process);
        if in_user
            && let Some(uid) = idmap::user_outside(procfs::pid_of(target)?, process.user.uid)?
        {
            descriptors::give_pipes(&streams, uid)?;
        }
        descriptors.extend(root);
        let program = Program::new(process)?;
        let work = Work {
            streams,
            task,
            identity,
            program,
            preserved: self.preserved,
            keyring: keyring(id, facts.keyring),
            label,
            affinity: Affinity::new(process.exec_cpu_affinity.as_ref())?,
            descriptors,
        };
        let launch = Launch {
            platform,
            cgroup,
            share,
            oom_score_adj: process.oom_score_adj,
            limits,
            hooks: None,
        };
        let launched = launch.exec(work, facts.pid_namespace.then_some(target))?;
        let Launched { process, pending, console } = launched;
        pending.start()?;
        Ok((Joined { process, console, warnings }, can_trace))
    }
}

/// The name that runc gives a container's session keyring, too.
fn keyring(id: &str, own: bool) -> Option<CString> {
    if own { CString::new(format!("_ses.{id}")).ok() } else { None }
}

fn streams(stdio: Stdio, process: &spec::Process) -> (Streams, Vec<OwnedFd>) {
    match stdio {
        Stdio::Inherited => (Streams::Inherited, Vec::new()),
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

/// Sets the limits of a group that was made before they were known.
fn limit(
    platform: &Platform,
    cgroup: Option<&Cgroup>,
    resources: Option<&Resources>,
) -> Result<Vec<String>, Error> {
    let (Some(cgroup), Some(resources)) = (cgroup, resources) else { return Ok(Vec::new()) };
    platform.cgroups.as_ref().map_or(Ok(()), |groups| groups.enable_for(resources))?;
    cgroup.update(resources)
}

fn plan(
    spec: &Spec,
    linux: &Linux,
    namespaces: Namespaces,
    root: Root,
    platform: &Platform,
    bundle: &str,
) -> Result<Init, Error> {
    let own = |field, name: &Option<String>| {
        check_name(field, name.as_deref(), &namespaces)?;
        Ok::<_, Error>(name.clone().filter(|name| !name.is_empty()))
    };
    let mounts = Mounts::new(&spec.mounts, bundle, !namespaces.new_mount())?;
    let propagation = match linux.rootfs_propagation.as_deref() {
        None | Some("") => None,
        Some(name) => Some(mount::propagation(name).ok_or_else(|| {
            let why = "shared, slave, private or unbindable is wanted";
            Error::invalid("linux.rootfsPropagation", name, why)
        })?),
    };
    Ok(Init {
        hostname: own("hostname", &spec.hostname)?,
        domainname: own("domainname", &spec.domainname)?,
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
        entry: Entry::Pivot,
        hooks: InitHooks::default(),
        gate: None,
        ahead: None,
    })
}
