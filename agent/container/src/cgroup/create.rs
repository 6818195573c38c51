//! Where containers get their groups, and the making of one.

use std::{cell::RefCell, collections::BTreeSet};

use rustix::{fs::Mode, io::Errno};

use super::{
    Version, cpuset,
    directory::Directory,
    group::Cgroup,
    hierarchy::{self, Hierarchy},
    path::Place,
    remove,
    setting::{self, Settings},
};
use crate::{
    error::{Error, at},
    spec::Resources,
};

/// What a guest's kernel has (`guest-kernel/config/containers.config`).
const GUEST: &str = "cpu,cpuset,io,memory,pids";
/// Those that every container of a guest has: who was killed for want of memory, and how many processes there are.
const BASIC: [&str; 2] = ["memory", "pids"];
/// How often a group is made anew when somebody removes the one above it in the meantime.
const ATTEMPTS: usize = 16;

/// The control groups of this system, in which containers get theirs.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    guest: bool,
    /// The controllers that a guest's groups have so far.
    enabled: RefCell<BTreeSet<&'static str>>,
}

impl Cgroups {
    /// A guest's hierarchy, of version 2, mounted on `path`. Nobody else uses it, and `linux.cgroupsPath`, which is about
    /// the host, does not matter there. The controllers that every container has are made ready.
    ///
    /// # Errors
    /// [`Error::System`] when the kernel lacks one of them.
    pub fn guest(path: &str) -> Result<Self, Error> {
        let hierarchy = Hierarchy {
            version: Version::V2,
            controllers: GUEST.to_owned(),
            mount: path.to_owned(),
            own: "/".to_owned(),
        };
        let cgroups =
            Self { hierarchies: vec![hierarchy], guest: true, enabled: RefCell::default() };
        cgroups.enable_in_guest(path, BASIC.into_iter().collect())?;
        Ok(cgroups)
    }

    /// The host's hierarchies, of either version or both; `None` when none is mounted.
    ///
    /// # Errors
    /// [`Error::System`] when `/proc` cannot be read.
    pub fn host() -> Result<Option<Self>, Error> {
        let read = |path: &'static str| {
            std::fs::read_to_string(path).map_err(|error| {
                at("read", path)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })
        };
        let hierarchies = hierarchy::parse(
            &read("/proc/self/mountinfo")?,
            &read("/proc/self/cgroup")?,
            |mount| {
                std::fs::read_to_string(format!("{mount}/cgroup.controllers")).unwrap_or_default()
            },
        );
        Ok((!hierarchies.is_empty()).then(|| Self::of(hierarchies)))
    }

    /// The host's.
    pub(super) fn of(hierarchies: Vec<Hierarchy>) -> Self {
        Self { hierarchies, guest: false, enabled: RefCell::default() }
    }

    pub(super) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// Makes a container's group with its limits, empty as yet. `path` is `linux.cgroupsPath`: absolute below the root of
    /// each hierarchy, relative below this process's own group, absent for `bulkhead-ID` there. An empty group that is
    /// there already is replaced. Returns a line for each wish that had to be left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit that cannot be or that this system has no controller for, [`Error::State`] when the
    /// group has processes, [`Error::System`]; nothing is left behind then.
    pub fn create(
        &self,
        path: Option<&str>,
        id: &str,
        resources: &Resources,
    ) -> Result<(Cgroup, Vec<String>), Error> {
        let Settings { list, mut warnings } =
            setting::of(resources, |controller| self.version(controller))?;
        let place = Place::new(path.filter(|_| !self.guest), id)?;
        let wanted: BTreeSet<&'static str> =
            list.iter().map(|setting| setting.controller).collect();
        let mut cgroup = Cgroup::new(id);
        let mut make = || {
            for hierarchy in &self.hierarchies {
                let (base, below) = self.place(hierarchy, &place);
                self.make(hierarchy, &base, &below, &wanted, &mut cgroup)?;
            }
            if let Some(unified) = cgroup.directory_of(Version::V2) {
                unified.open().map_err(at("open cgroup", &unified.path))?;
            }
            cgroup.apply(&list)
        };
        match make() {
            Ok(more) => {
                warnings.extend(more);
                Ok((cgroup, warnings))
            }
            Err(error) => {
                // The first error is what matters.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// Gives a guest's groups the controllers that these limits need. Groups on a host have had all that there are since they
    /// were made.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn enable_for(&self, resources: &Resources) -> Result<(), Error> {
        let Some(hierarchy) = self.hierarchies.first().filter(|_| self.guest) else {
            return Ok(());
        };
        // What is wrong with a limit is said when it is set.
        let Ok(settings) = setting::of(resources, |controller| self.version(controller)) else {
            return Ok(());
        };
        let wanted = settings.list.iter().map(|setting| setting.controller).collect();
        self.enable_in_guest(hierarchy.mount.trim_end_matches('/'), wanted)
    }

    /// There is one hierarchy, of version 2.
    pub(crate) fn is_unified(&self) -> bool {
        matches!(self.hierarchies.as_slice(), [one] if one.version == Version::V2)
    }

    /// Of which version a controller is; with none, that of the hierarchy that there is.
    fn version(&self, controller: &str) -> Version {
        let has = |name: &str| {
            self.hierarchies
                .iter()
                .find(|one| one.controllers.split(',').any(|controller| controller == name))
        };
        let found = match controller {
            "io" => has("blkio").or_else(|| has("io")),
            name => has(name),
        };
        let unified = self.hierarchies.iter().any(|one| one.version == Version::V2);
        let fallback = if unified { Version::V2 } else { Version::V1 };
        found.map_or(fallback, |hierarchy| hierarchy.version)
    }

    /// The directory that is there already, and the path below it.
    fn place(&self, hierarchy: &Hierarchy, place: &Place) -> (String, String) {
        let mount = hierarchy.mount.trim_end_matches('/');
        match place {
            Place::Absolute(path) => (mount.to_owned(), path.clone()),
            Place::Relative(path) => {
                // In version 2, a group with processes, as this process's own, has no controllers for groups below it.
                let own = match (self.hierarchies.len(), hierarchy.own.rfind('/')) {
                    (1, Some(end)) if hierarchy.version == Version::V2 => {
                        hierarchy.own.get(..end).unwrap_or_default()
                    }
                    _ => hierarchy.own.trim_end_matches('/'),
                };
                (mount.to_owned(), format!("{own}/{path}").trim_start_matches('/').to_owned())
            }
        }
    }

    /// Makes the directory in one hierarchy and adds it to the group.
    fn make(
        &self,
        hierarchy: &Hierarchy,
        base: &str,
        below: &str,
        wanted: &BTreeSet<&'static str>,
        cgroup: &mut Cgroup,
    ) -> Result<(), Error> {
        let path = format!("{base}/{below}");
        let mut parents = 0;
        let mut made = Err(Errno::NOENT);
        for _ in 0..ATTEMPTS {
            if hierarchy.version == Version::V2 {
                parents += self.enable(base, below, wanted)?;
            }
            made = mkdir(&path);
            if made == Err(Errno::NOENT) {
                parents += make_parents(base, below)?;
                made = mkdir(&path);
            }
            match made {
                Err(Errno::EXIST) => {
                    remove::stale(&path).map_err(|errno| match errno {
                        Errno::BUSY => Error::State {
                            container: cgroup.id().to_owned(),
                            why: "cannot have its cgroup (linux.cgroupsPath): there are processes in it",
                        },
                        errno => at("replace cgroup", &path)(errno),
                    })?;
                }
                Err(Errno::NOENT) => {}
                _ => break,
            }
        }
        made.map_err(at("make cgroup", &path))?;
        let Hierarchy { version, controllers, .. } = hierarchy;
        let dir = Directory::new(*version, controllers, path, parents);
        let cpus = *version == Version::V1 && dir.has("cpuset");
        cgroup.add(dir);
        if cpus {
            inherit_cpus(base, below).map_err(at("give processors to cgroup", below))?;
        }
        Ok(())
    }

    /// Gives a guest's groups, all of which are right below the root, what they do not have yet.
    fn enable_in_guest(&self, root: &str, wanted: BTreeSet<&'static str>) -> Result<(), Error> {
        let mut enabled = self.enabled.borrow_mut();
        let there = |name: &&str| GUEST.split(',').any(|controller| controller == *name);
        // A limit without its controller is refused later, by name.
        let line = plus(wanted.difference(&enabled).copied().filter(there));
        if !line.is_empty() {
            let root = Directory::new(Version::V2, "", root.to_owned(), 0);
            root.write("cgroup.subtree_control", &line)
                .map_err(at("enable the cgroup controllers", format_args!("{line:?}")))?;
            enabled.extend(wanted);
        }
        Ok(())
    }

    /// Gives the groups on the way the controllers, which in version 2 each group has to pass on. Returns how many groups
    /// were made on the way.
    fn enable(
        &self,
        base: &str,
        below: &str,
        wanted: &BTreeSet<&'static str>,
    ) -> Result<usize, Error> {
        let mut made = 0;
        let mut path = base.to_owned();
        for part in below.split('/') {
            let dir = Directory::new(Version::V2, "", path.clone(), 0);
            if self.guest {
                self.enable_in_guest(&path, wanted.clone())?;
            } else {
                let available = match dir.read("cgroup.controllers") {
                    Err(Errno::NOENT) => {
                        made += usize::from(mkdir(&path).is_ok());
                        dir.read("cgroup.controllers")
                    }
                    read => read,
                }
                .map_err(at("read the controllers of cgroup", &path))?;
                let line = plus(available.split_whitespace());
                if !line.is_empty() && dir.write("cgroup.subtree_control", &line).is_err() {
                    for name in available.split_whitespace() {
                        // One that cannot be had is missed when a limit needs it.
                        let _ = dir.write("cgroup.subtree_control", &plus([name]));
                    }
                }
            }
            path = format!("{path}/{part}");
        }
        Ok(made)
    }
}

/// As `cgroup.subtree_control` takes them: `+cpu +memory`.
fn plus<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ")
}

fn mkdir(path: &str) -> Result<(), Errno> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))
}

/// Makes the directories above a group. Returns how many were not there.
fn make_parents(base: &str, below: &str) -> Result<usize, Error> {
    let mut made = 0;
    for (at_slash, _) in below.match_indices('/') {
        let path = format!("{base}/{}", below.get(..at_slash).unwrap_or_default());
        match mkdir(&path) {
            Ok(()) => made += 1,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(at("make cgroup", path)(errno)),
        }
    }
    Ok(made)
}

fn inherit_cpus(base: &str, below: &str) -> Result<(), Errno> {
    let dir = |path: &str| Directory::new(Version::V1, "cpuset", path.to_owned(), 0);
    let mut above = dir(base);
    let mut parts = below.split('/').peekable();
    while let Some(part) = parts.next() {
        let next = dir(&format!("{}/{part}", above.path));
        let last = parts.peek().is_none();
        cpuset::inherit(&next, &above, last)?;
        above = next;
    }
    Ok(())
}
