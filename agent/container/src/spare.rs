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
    process::{Pid, PidfdGetfdFlags, pidfd_getfd, umask},
};

use crate::{
    builder::Platform,
    capability::Sets,
    cgroup::{Cgroup, DeviceFilter},
    child::{self, Ahead, Init, Job, Streams},
    clone::{self, Stack},
    container::Process,
    descriptors,
    error::{Error, Kind, at},
    likeness::{self, Expected, Likeness},
    mount::{self, Nodes, Outside, Tree},
    namespace::Namespaces,
    report::{self, Report},
    spec::{DeviceRule, Linux, Resources, Spec},
    sys, sysctl,
};

/// What its group is called: no container's id has a colon.
const ID: &str = "ahead:";

/// A process that waits to become a container's.
#[derive(Debug)]
pub struct Spare {
    waiting: Option<Waiting>,
    /// Descriptors of the process. What it closes is not taken down then, which would take it longer than all else.
    kept: Vec<OwnedFd>,
}

/// It, and all that it needs.
#[derive(Debug)]
pub(crate) struct Waiting {
    likeness: Likeness,
    bounding: Sets,
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

/// What the process does before it waits, and what it is handed then.
#[derive(Debug)]
struct Stage {
    report: RawFd,
    /// The process that makes it: whose cgroup namespace it was in.
    maker: RawFd,
    namespaces: Namespaces,
    scratch: PathBuf,
    expected: Vec<Expected>,
    bounding: Sets,
    /// By the process: the trees that it has made, and its numbers of them.
    trees: Vec<(Tree, RawFd)>,
    /// By the process: its number of a `/proc/sys` that is not read-only.
    sysctls: Option<RawFd>,
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

impl Spare {
    /// Makes a process for a container like the first of these, with the mounts of all that are like it in their namespaces;
    /// `None` where that cannot be.
    ///
    /// # Errors
    /// All kinds of [`Error`]; nothing is left behind then.
    pub fn make(platform: &Platform, specs: &[Spec]) -> Result<Option<Self>, Error> {
        let linux_of = |spec: &Spec| spec.linux.clone().unwrap_or_default();
        let Some(first) = specs.first() else { return Ok(None) };
        let linux = linux_of(first);
        let (likeness, bounding) = (Likeness::of(&linux), likeness::bounding(platform, first));
        let (Some(likeness), Some(bounding)) = (likeness, bounding) else { return Ok(None) };
        let groups = platform.cgroups.as_ref().filter(|groups| groups.is_unified());
        let Some(cgroups) = groups.filter(|_| platform.share_memory) else { return Ok(None) };
        let mut namespaces = Namespaces::new(&linux)?;
        namespaces.cgroup = true;
        let mut expected: Vec<Expected> = Vec::new();
        for spec in specs {
            let linux = linux_of(spec);
            if Likeness::of(&linux).as_ref() == Some(&likeness) {
                // What they limit, groups have controllers for: later that takes long.
                linux.resources.as_ref().map_or(Ok(()), |limits| cgroups.enable_for(limits))?;
                let made = expected.iter().flat_map(|expected| &expected.trees);
                expected.extend(Expected::new(spec, &linux, &made.collect::<Vec<_>>())?);
            }
        }
        let filter = DeviceFilter::load(likeness::rules(&linux))?;
        // Its limits are set when they are known.
        let (cgroup, _) = cgroups.create(None, ID, &Resources::default())?;
        for expected in &mut expected {
            expected.mounts.show_groups(mount::groups(Some(&cgroup)), true);
        }
        match Waiting::make(platform, (likeness, bounding), namespaces, expected, &cgroup) {
            Ok(made) => {
                let group = Some(Group { cgroup, filter });
                let mut spare = Self { waiting: Some(Waiting { group, ..made }), kept: Vec::new() };
                spare.keep()?;
                Ok(Some(spare))
            }
            Err(error) => {
                // The first error is what matters.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    fn keep(&mut self) -> Result<(), Error> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        let stage = waiting.stage();
        let trees = stage.trees.iter().map(|(_, number)| *number);
        for number in trees.chain(stage.sysctls) {
            let none = PidfdGetfdFlags::empty();
            let kept = pidfd_getfd(waiting.process.pidfd(), number, none)
                .map_err(at("keep", "what was made ahead"))?;
            self.kept.push(kept);
        }
        Ok(())
    }

    /// Its number where the engine runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.waiting.as_ref().map(|waiting| waiting.process.pid())
    }

    /// Takes the process for a container when it is what that wants, and leaves to `init` only what is still to do.
    pub(crate) fn take(
        &mut self,
        platform: &Platform,
        spec: &Spec,
        linux: &Linux,
        init: &mut Init,
    ) -> Option<Self> {
        let (likeness, bounding) = (Likeness::of(linux)?, likeness::bounding(platform, spec)?);
        let waiting = self.waiting.take_if(|waiting| {
            waiting.likeness == likeness && waiting.bounding.bounds(&bounding)
        })?;
        let stage = waiting.stage();
        let trees: Vec<_> = stage.trees.iter().map(|(tree, _)| tree).collect();
        let chosen = likeness::choose(&init.mounts, linux, &trees);
        let used = chosen.iter().filter_map(|chosen| stage.trees.get(chosen.tree));
        for (chosen, (tree, number)) in chosen.iter().zip(used.clone()) {
            init.mounts.use_tree(&chosen.places, *number);
            if tree.nodes().is_some() {
                init.nodes = None;
            }
        }
        let used = used.map(|(tree, _)| tree);
        if used.clone().any(|tree| tree.hidden().next().is_some()) {
            init.sysctls.write_in(stage.sysctls);
        }
        [init.read_only_paths, init.masked_paths] = likeness::rest(linux, used);
        init.ahead = Some(Ahead {
            mounts: chosen.iter().map(|chosen| chosen.places.len()).sum(),
            leave: (!likeness::takes_group(linux)).then_some(stage.maker),
        });
        // What the container has is nobody else's: it can be unmounted there.
        let mut number = 0..;
        self.kept.retain(|_| {
            let number = number.next();
            !chosen.iter().any(|chosen| Some(chosen.tree) == number)
        });
        Some(Self { waiting: Some(waiting), kept: Vec::new() })
    }

    /// The bounding set of its capabilities.
    pub(crate) fn bounding(&self) -> Option<Sets> {
        self.waiting.as_ref().map(|waiting| waiting.bounding)
    }

    /// The group in which it is.
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.waiting.as_ref()?.group.as_ref().map(|group| &group.cgroup)
    }

    /// Takes the group, for the container of this id, and its filter, when that is one of these rules.
    pub(crate) fn take_group(
        &mut self,
        id: &str,
        rules: &[DeviceRule],
    ) -> (Option<Cgroup>, Option<DeviceFilter>) {
        let group = self.waiting.as_mut().and_then(|waiting| waiting.group.take());
        let Some(Group { cgroup, filter }) = group else { return (None, None) };
        (Some(cgroup.of(id)), Some(filter).filter(|filter| filter.is_of(rules)))
    }

    /// The process, for whoever gives it its job; it does not end with the spare any more.
    pub(crate) fn into_waiting(mut self) -> Option<Waiting> {
        self.waiting.take()
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.process.end();
            // A group that is left goes with the guest.
            let _ = waiting.group.as_ref().map(|group| group.cgroup.remove());
        }
    }
}

impl Waiting {
    fn make(
        platform: &Platform,
        (likeness, bounding): (Likeness, Sets),
        namespaces: Namespaces,
        expected: Vec<Expected>,
        cgroup: &Cgroup,
    ) -> Result<Self, Error> {
        let (report, theirs) = report::pair()?;
        let stack = Stack::new().map_err(at("make", "a stack"))?;
        let flags = namespaces.flags;
        let stage = Stage {
            report: theirs.as_raw_fd(),
            maker: platform.own_process.as_raw_fd(),
            namespaces,
            scratch: platform.scratch.clone(),
            expected,
            bounding,
            trees: Vec::new(),
            sysctls: None,
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
        Ok(Self { likeness, bounding, process, report, stack, group: None, stage })
    }

    fn stage(&self) -> &Stage {
        // SAFETY: the process only waits; the stage is its maker's to use.
        unsafe { &*self.stage.0 }
    }

    /// The descriptor by which the process reports, as it knows it.
    pub(crate) fn theirs(&self) -> RawFd {
        self.stage().report
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
        let named = vec![&mut self.report, &mut self.maker];
        descriptors::arrange(&Streams::Inherited, 0, named)?;
        umask(Mode::empty());
        self.namespaces.make()?;
        mount::keep_apart(false)?;
        for expected in std::mem::take(&mut self.expected) {
            self.set(&expected)?;
        }
        self.bounding.drop_bounding(None)
    }

    /// Makes all trees of a specification, and takes those that there are not yet.
    fn set(&mut self, expected: &Expected) -> Result<(), Error> {
        let stage = self.scratch.join("root");
        let tmpfs = || {
            rustix::mount::mount("tmpfs", &stage, "tmpfs", MountFlags::empty(), c"mode=755")
                .map_err(at("mount a tmpfs on", stage.display()))
        };
        if tmpfs().is_err() {
            mount::make_point(&stage)?;
            tmpfs()?;
        }
        let sources = expected.mounts.open()?;
        let outside = Outside::look_in(&stage)?;
        expected.mounts.make(sources)?;
        let trees = &expected.trees;
        if let Some(devices) = trees.iter().find_map(Tree::nodes) {
            Nodes::new(devices).make(None)?;
        }
        if self.sysctls.is_none() {
            self.sysctls = sysctl::open().map(IntoRawFd::into_raw_fd);
        }
        let trees: Vec<_> = trees.iter().map(Tree::without_absent).collect();
        let hidden = |of: fn(&Tree) -> &BTreeSet<String>| -> Vec<_> {
            trees.iter().flat_map(of).cloned().collect()
        };
        mount::read_only(&hidden(Tree::read_only))?;
        mount::mask(&hidden(Tree::masked))?;
        for tree in trees {
            if !self.trees.iter().any(|(made, _)| made.is_like(&tree)) {
                let number = tree.lift()?.into_raw_fd();
                self.trees.push((tree, number));
            }
        }
        drop(outside.go_back()?);
        rustix::mount::unmount(&stage, UnmountFlags::DETACH).map_err(at("unmount", stage.display()))
    }
}
