//! A container's group: one directory in each hierarchy.

use std::os::fd::{BorrowedFd, OwnedFd};

use bulkhead_protocol::Stats;
use rustix::{fs::OFlags, io::Errno, process::Pid};
use serde::{Deserialize, Serialize};

use super::{DeviceFilter, Version, device_list, directory::Directory, memory, setting, stats};
use crate::{
    error::{Error, at},
    spec::{DeviceRule, Resources},
};

/// How long a process that has just been made may take until the kernel lets it enter a group (`EINVAL`).
const ENTER_ATTEMPTS: u32 = 20;

/// A container's control group.
#[derive(Debug)]
pub struct Cgroup {
    id: String,
    directories: Vec<Directory>,
}

/// All that another process needs to find the group again. Its form is this version's own.
#[derive(Debug, Serialize, Deserialize)]
pub struct CgroupRecord {
    id: String,
    directories: Vec<Directory>,
}

/// Where a group is in one hierarchy.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The hierarchy's version.
    pub version: Version,
    /// Its controllers as mount(2) takes them: `cpu,cpuacct`, `name=systemd`.
    pub controllers: &'a str,
    /// The group's directory.
    pub path: &'a str,
}

impl Cgroup {
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), directories: Vec::new() }
    }

    /// The group as that of another container, which its path does not tell.
    pub(crate) fn of(self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self }
    }

    pub(super) fn add(&mut self, directory: Directory) {
        self.directories.push(directory);
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// Where a controller's files are. `io` is `blkio` where that is of version 1; the files that every group of version
    /// 2 has are those of no controller, `""`.
    pub(super) fn directory(&self, controller: &str) -> Option<&Directory> {
        match controller {
            "" => self.directory_of(Version::V2),
            "io" => self.having("blkio").or_else(|| self.having("io")),
            name => self.having(name),
        }
    }

    fn having(&self, controller: &str) -> Option<&Directory> {
        self.directories.iter().find(|dir| dir.has(controller))
    }

    pub(super) fn directory_of(&self, version: Version) -> Option<&Directory> {
        self.directories.iter().find(|dir| dir.version == version)
    }

    /// The group again, in any process. That it is gone is noticed by the first call that needs it.
    #[must_use]
    pub fn open(record: CgroupRecord) -> Self {
        Self { id: record.id, directories: record.directories }
    }

    /// What [`Cgroup::open`] needs.
    #[must_use]
    pub fn record(&self) -> CgroupRecord {
        let copy = |dir: &Directory| {
            Directory::new(dir.version, &dir.controllers, dir.path.clone(), dir.parents)
        };
        CgroupRecord {
            id: self.id.clone(),
            directories: self.directories.iter().map(copy).collect(),
        }
    }

    /// Where it is in each hierarchy.
    pub fn places(&self) -> impl Iterator<Item = Placed<'_>> {
        self.directories.iter().map(|dir| Placed {
            version: dir.version,
            controllers: &dir.controllers,
            path: &dir.path,
        })
    }

    /// For clone3's `CLONE_INTO_CGROUP`: its directory in the hierarchy of version 2, where there is one.
    ///
    /// # Errors
    /// [`Error::System`] when the group is gone.
    pub fn dir(&self) -> Result<Option<BorrowedFd<'_>>, Error> {
        self.directory_of(Version::V2)
            .map(|dir| dir.open().map_err(at("open cgroup", &dir.path)))
            .transpose()
    }

    /// Files into which a new process writes [`Cgroup::HERE`] as its first act, which puts it into the hierarchies of
    /// version 1. It is done so because the kernel need not stop all forks of the system for a thread that moves itself:
    /// that takes a fiftieth of the time of [`Cgroup::enter`].
    ///
    /// # Errors
    /// [`Error::System`] when the group is gone.
    pub(crate) fn doors(&self) -> Result<Vec<OwnedFd>, Error> {
        let v1 = self.directories.iter().filter(|dir| dir.version == Version::V1);
        v1.map(|dir| dir.file("tasks", OFlags::WRONLY).map_err(at("open cgroup", &dir.path)))
            .collect()
    }

    /// The process that writes it.
    pub(crate) const HERE: &[u8] = b"0";

    /// Puts a process of another group into this one, of version 2.
    ///
    /// # Errors
    /// [`Error::System`].
    pub(crate) fn take_in(&self, process: Pid) -> Result<(), Error> {
        let Some(dir) = self.directory_of(Version::V2) else { return Ok(()) };
        dir.write("cgroup.procs", &process.as_raw_nonzero().to_string())
            .map_err(at("put a process into cgroup", &dir.path))
    }

    /// Puts a process that was made in [`Cgroup::dir`] into the other hierarchies, those of version 1.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn enter(&self, process: Pid) -> Result<(), Error> {
        let pid = process.as_raw_nonzero().to_string();
        for dir in self.directories.iter().filter(|dir| dir.version == Version::V1) {
            let mut attempts = 0;
            loop {
                match dir.write("cgroup.procs", &pid) {
                    Err(Errno::INVAL) if attempts < ENTER_ATTEMPTS => {
                        attempts += 1;
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    written => {
                        break written.map_err(at("put a process into cgroup", &dir.path))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Restricts the group's processes to the devices that the rules and the default rules allow. To be done once the
    /// first one has mounted its disks, which the rules need not allow it to open.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a rule that cannot be, [`Error::System`].
    pub fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<(), Error> {
        if let Some(dir) = self.directory("devices") {
            return restrict_v1(dir, rules);
        }
        if self.directory_of(Version::V2).is_none() {
            return Err(Error::invalid(
                "linux.resources.devices",
                rules.len(),
                "this system has no cgroup controller for devices; mount cgroup v2 or the devices controller",
            ));
        }
        self.filter_devices(&DeviceFilter::load(rules)?)
    }

    /// Restricts the group, of version 2, by rules that have been loaded.
    pub(crate) fn filter_devices(&self, filter: &DeviceFilter) -> Result<(), Error> {
        let Some(dir) = self.directory_of(Version::V2) else { return Ok(()) };
        filter.attach(dir.open().map_err(at("open cgroup", &dir.path))?)
    }

    /// Changes limits; those that are absent stay, and rules for devices are not changed. Returns a line for each wish that
    /// had to be left out.
    ///
    /// # Errors
    /// As [`super::Cgroups::create`]; some limits may have been changed then.
    pub fn update(&self, resources: &Resources) -> Result<Vec<String>, Error> {
        let version = |controller: &str| match self.directory(controller) {
            Some(dir) => dir.version,
            None if self.directory_of(Version::V2).is_some() => Version::V2,
            None => Version::V1,
        };
        let mut settings = setting::of(resources, version)?;
        if let (Some(memory), Some(dir)) = (&resources.memory, self.directory("memory")) {
            memory::check(memory, dir)?;
        }
        settings.warnings.extend(self.apply(&settings.list)?);
        Ok(settings.warnings)
    }

    /// What the container uses. What this system does not count is 0 or empty.
    #[must_use]
    pub fn stats(&self) -> Stats {
        stats::of(self)
    }

    /// A process of the group was killed for want of memory. False when that cannot be known.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        self.directory("memory").is_some_and(|dir| {
            let text = dir.read(memory::oom_file(dir.version)).unwrap_or_default();
            memory::oom_kills(&text) > 0
        })
    }
}

fn restrict_v1(dir: &Directory, rules: &[DeviceRule]) -> Result<(), Error> {
    let files = ["devices.deny", "devices.allow"].map(|name| {
        dir.file(name, OFlags::WRONLY).map_err(at("open", format_args!("{}/{name}", dir.path)))
    });
    let [deny, allow] = files;
    let (deny, allow) = (deny?, allow?);
    for (allowed, line) in device_list::lines(rules)? {
        let file = if allowed { &allow } else { &deny };
        rustix::io::write(file, line.as_bytes())
            .map_err(at("set linux.resources.devices to", line))?;
    }
    Ok(())
}
