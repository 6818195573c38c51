//! The first process of a container that is still to be asked for: made from a specification like the ones that are expected,
//! it waits in its namespaces and its control group, with the mounts made that are alike in every root, the device nodes
//! in them, and what is to be hidden in them hidden. A container that asks for just these takes it; any other is made
//! without it.

use std::{
    collections::BTreeSet,
    ffi::c_void,
    os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd},
    path::PathBuf,
};

use rustix::{
    fs::Mode,
    mount::{MountFlags, UnmountFlags},
    process::{Pid, umask},
};

use crate::{
    builder::Platform,
    capability::Sets,
    cgroup::{Cgroup, DeviceFilter},
    child::{self, Init, Job, Streams},
    clone::{self, Stack},
    container::Process,
    descriptors,
    error::{Error, Kind, at},
    mount::{self, Mounts, Nodes, Outside},
    namespace::Namespaces,
    report::{self, Report},
    spec::{self, Device, DeviceRule, Linux, Namespace, Resources, Spec},
    sys,
};

/// What its group is called: no container's id has a colon.
const ID: &str = "ahead:";

/// A process that waits to become a container's.
#[derive(Debug)]
pub struct Spare(Option<Waiting>);

/// It, and all that it needs.
#[derive(Debug)]
pub(crate) struct Waiting {
    likeness: Likeness,
    pub(crate) process: Process,
    pub(crate) report: OwnedFd,
    pub(crate) stack: Stack,
    group: Option<Group>,
    stage: OwnedStage,
}

/// A group with nothing in force yet, and what is to restrict its devices.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) cgroup: Cgroup,
    pub(crate) filter: DeviceFilter,
}

/// All of a specification that has gone into a process which was made ahead.
#[derive(Debug, PartialEq, Eq)]
struct Likeness {
    namespaces: BTreeSet<spec::NamespaceType>,
    bounding: Sets,
    mounts: Vec<spec::Mount>,
    /// The nodes, when they are made ahead.
    devices: Option<Vec<Device>>,
    /// Read-only and masked paths, when they are ahead.
    hidden: Option<[Vec<String>; 2]>,
    rules: Vec<DeviceRule>,
}

/// What the process does before it waits, and what it is handed then.
#[derive(Debug)]
struct Stage {
    report: RawFd,
    namespaces: Namespaces,
    scratch: PathBuf,
    mounts: Mounts,
    nodes: Option<Nodes>,
    hidden: Option<[Vec<String>; 2]>,
    bounding: Sets,
    /// By the process: its numbers of the trees that it has made.
    trees: Vec<Option<RawFd>>,
    /// By its maker: what it becomes.
    job: *mut Job,
}

/// A stage that the process may be using. Dropped when that has ended or has its job.
#[derive(Debug)]
struct OwnedStage(*mut Stage);

impl Drop for OwnedStage {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw`, and nobody uses it any more.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl Likeness {
    /// With the places of the mounts that are made ahead. `None` for a specification of which nothing can be.
    fn of(
        spec: &Spec,
        linux: &Linux,
        mounts: &Mounts,
        platform: &Platform,
    ) -> Option<(Self, Vec<usize>)> {
        let wanted =
            [spec::NamespaceType::Pid, spec::NamespaceType::Mount, spec::NamespaceType::Cgroup];
        let has = |kind| linux.namespaces.iter().any(|namespace| namespace.kind == kind);
        let other = |namespace: &Namespace| {
            let apart = [spec::NamespaceType::User, spec::NamespaceType::Time];
            namespace.path.is_some() || apart.contains(&namespace.kind)
        };
        let shared =
            linux.rootfs_propagation.as_deref().is_some_and(|kind| kind.contains("shared"));
        let fits = wanted.into_iter().all(has) && !linux.namespaces.iter().any(other);
        // A sysctl is set before its path becomes read-only.
        if !fits || shared || !linux.sysctl.is_empty() {
            return None;
        }
        let places = mounts.ahead();
        let in_dev = |device: &Device| device.path.starts_with("/dev/");
        let nodes = mounts.has_dev_ahead(&places) && linux.devices.iter().all(in_dev);
        let hidden = [linux.readonly_paths.clone(), linux.masked_paths.clone()];
        let hides = nodes && hidden.iter().all(|paths| mounts.has_ahead(&places, paths));
        let likeness = Self {
            namespaces: linux.namespaces.iter().map(|namespace| namespace.kind).collect(),
            bounding: platform.sets(spec.process.as_ref()?).only_bounding(),
            mounts: places.iter().filter_map(|at| spec.mounts.get(*at)).cloned().collect(),
            devices: nodes.then(|| linux.devices.clone()),
            hidden: hides.then_some(hidden),
            rules: rules(linux).to_vec(),
        };
        Some((likeness, places))
    }
}

fn rules(linux: &Linux) -> &[DeviceRule] {
    linux.resources.as_ref().map_or(&[], |resources| &resources.devices)
}

impl Spare {
    /// Makes a process for a container like this one; `None` where that cannot be.
    ///
    /// # Errors
    /// All kinds of [`Error`]; nothing is left behind then.
    pub fn make(platform: &Platform, spec: &Spec) -> Result<Option<Self>, Error> {
        let fallback = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&fallback);
        let namespaces = Namespaces::new(linux)?;
        let mut mounts = Mounts::new(&spec.mounts, "", false)?;
        let Some((likeness, places)) = Likeness::of(spec, linux, &mounts, platform) else {
            return Ok(None);
        };
        let groups = platform.cgroups.as_ref().filter(|groups| groups.is_unified());
        let Some(cgroups) = groups.filter(|_| platform.share_memory) else { return Ok(None) };
        let filter = DeviceFilter::load(rules(linux))?;
        mounts.keep(&places);
        // Its limits are set when they are known.
        let (cgroup, _) = cgroups.create(None, ID, &Resources::default())?;
        mounts.show_groups(mount::groups(Some(&cgroup)), true);
        match Waiting::make(platform, likeness, namespaces, mounts, &cgroup) {
            Ok(made) => {
                let group = Some(Group { cgroup, filter });
                Ok(Some(Self(Some(Waiting { group, ..made }))))
            }
            Err(error) => {
                // The first error is what matters.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// Its number where the engine runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.0.as_ref().map(|waiting| waiting.process.pid())
    }

    /// Takes the process for a container when it is what that wants, and leaves to `init` only what is still to do.
    pub(crate) fn take(
        &mut self,
        platform: &Platform,
        spec: &Spec,
        linux: &Linux,
        init: &mut Init,
    ) -> Option<Self> {
        let (likeness, places) = Likeness::of(spec, linux, &init.mounts, platform)?;
        let waiting = self.0.take_if(|waiting| waiting.likeness == likeness)?;
        init.mounts.use_trees(&places, waiting.trees());
        init.made_ahead = true;
        if likeness.devices.is_some() {
            init.nodes = None;
        }
        if likeness.hidden.is_some() {
            init.read_only_paths.clear();
            init.masked_paths.clear();
        }
        Some(Self(Some(waiting)))
    }

    /// The group in which it is.
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.0.as_ref()?.group.as_ref().map(|group| &group.cgroup)
    }

    /// Takes the group, for the container of this id.
    pub(crate) fn take_group(&mut self, id: &str) -> Option<Group> {
        let Group { cgroup, filter } = self.0.as_mut()?.group.take()?;
        Some(Group { cgroup: cgroup.of(id), filter })
    }

    /// The process, for whoever gives it its job; it does not end with the spare any more.
    pub(crate) fn into_waiting(mut self) -> Option<Waiting> {
        self.0.take()
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.take() {
            waiting.process.end();
            // A group that is left goes with the guest.
            let _ = waiting.group.as_ref().map(|group| group.cgroup.remove());
        }
    }
}

impl Waiting {
    fn make(
        platform: &Platform,
        likeness: Likeness,
        namespaces: Namespaces,
        mounts: Mounts,
        cgroup: &Cgroup,
    ) -> Result<Self, Error> {
        let (report, theirs) = report::pair()?;
        let stack = Stack::new().map_err(at("make", "a stack"))?;
        let flags = namespaces.flags;
        let stage = Stage {
            report: theirs.as_raw_fd(),
            namespaces,
            scratch: platform.scratch.clone(),
            mounts,
            nodes: likeness.devices.as_deref().map(Nodes::new),
            hidden: likeness.hidden.clone(),
            bounding: likeness.bounding,
            trees: Vec::new(),
            job: std::ptr::null_mut(),
        };
        let stage = OwnedStage(Box::into_raw(Box::new(stage)));
        let group = cgroup.dir()?;
        // SAFETY: `wait` never returns. The stage lives until the process has its job or has ended, the stack until its end
        // or its program. This process waits for its report, after which it only waits until it is given a job; from
        // then on it is as `Launch` makes them.
        let cloned = unsafe { clone::clone(flags, group, Some(&stack), wait, stage.0.cast()) };
        drop(theirs);
        let cloned = cloned.map_err(at("make", "a process"))?;
        let process = Process::new(cloned.pid, cloned.pidfd);
        let heard = match report::receive(&report) {
            Ok(Report::Ready(_)) => Ok(()),
            Ok(Report::Failed(error)) | Err(error) => Err(error),
            Ok(_) => Err(died()),
        };
        if let Err(error) = heard {
            process.end();
            return Err(error);
        }
        Ok(Self { likeness, process, report, stack, group: None, stage })
    }

    fn trees(&self) -> &[Option<RawFd>] {
        // SAFETY: the process only waits; the stage is its maker's to use.
        unsafe { &(*self.stage.0).trees }
    }

    /// The descriptor by which the process reports, as it knows it.
    pub(crate) fn theirs(&self) -> RawFd {
        // SAFETY: as in `trees`.
        unsafe { (*self.stage.0).report }
    }

    /// Gives the process what it is to do. `job` lives until it has executed its program or ended.
    pub(crate) fn give(&self, job: *mut Job) -> Result<(), Error> {
        // SAFETY: the process only waits; until it is woken, stage and job are its maker's.
        let streams = unsafe {
            (*self.stage.0).job = job;
            &(*job).streams
        };
        let mut files: Vec<BorrowedFd<'_>> = Vec::new();
        if let Streams::Files(numbers) = streams {
            // SAFETY: the maker holds them until the process has answered.
            files.extend(numbers.iter().flatten().map(|fd| unsafe { BorrowedFd::borrow_raw(*fd) }));
        }
        report::go_with(&self.report, &files)
    }
}

/// That of a process which was made ahead and is gone.
pub(crate) fn died() -> Error {
    let message = "the process that was made ahead died".to_owned();
    Error::Child { kind: Kind::System, message }
}

/// The entry of a process that is made ahead.
///
/// # Safety
/// `stage` points to a [`Stage`] that nothing else uses until the process has reported, and that lives until it has its
/// job; the job is one for [`child::run`].
unsafe extern "C" fn wait(stage: *mut c_void) -> ! {
    // SAFETY: the caller vouches for the pointer.
    let stage = unsafe { &mut *stage.cast::<Stage>() };
    // SAFETY: this process's own copy, which `arrange` keeps.
    let report = unsafe { BorrowedFd::borrow_raw(stage.report) };
    if let Err(error) = stage.make() {
        child::fail(report, error);
    }
    if report::ready(report, None).is_err() {
        sys::exit(1);
    }
    let Some(files) = report::wait_with(report) else { sys::exit(1) };
    let job = stage.job;
    // SAFETY: its maker has put a job there before it sent word, and waits for the report.
    let streams = unsafe { &mut (*job).streams };
    if let Streams::Files(numbers) = streams {
        let named = numbers.iter_mut().flatten();
        // They stay open until `arrange` has put them in place.
        named.zip(files).for_each(|(number, file)| *number = file.into_raw_fd());
    }
    // SAFETY: the caller vouches for the job.
    unsafe { child::run(job.cast()) }
}

impl Stage {
    /// In the process: makes what can be made now.
    fn make(&mut self) -> Result<(), Error> {
        descriptors::arrange(&Streams::Inherited, 0, vec![&mut self.report])?;
        umask(Mode::empty());
        self.namespaces.make()?;
        mount::keep_apart(false)?;
        let stage = self.scratch.join("root");
        let tmpfs = || {
            rustix::mount::mount("tmpfs", &stage, "tmpfs", MountFlags::empty(), c"mode=755")
                .map_err(at("mount a tmpfs on", stage.display()))
        };
        if tmpfs().is_err() {
            mount::make_point(&stage)?;
            tmpfs()?;
        }
        let sources = self.mounts.open()?;
        let outside = Outside::look_in(&stage)?;
        self.mounts.make(sources)?;
        if let Some(nodes) = &self.nodes {
            nodes.make(None)?;
        }
        if let Some([read_only, masked]) = &self.hidden {
            mount::read_only(read_only)?;
            mount::mask(masked)?;
        }
        let trees = self.mounts.lift()?;
        drop(outside.go_back()?);
        rustix::mount::unmount(&stage, UnmountFlags::DETACH)
            .map_err(at("unmount", stage.display()))?;
        self.bounding.drop_bounding()?;
        self.trees = trees.into_iter().map(|tree| tree.map(IntoRawFd::into_raw_fd)).collect();
        Ok(())
    }
}
