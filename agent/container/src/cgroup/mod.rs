//! Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst): one directory for each container, its limits, its
//! end. Each controller has a file that turns the specification into what is written where.

mod cpu;
mod device;
mod device_program;
mod hugetlb;
mod io;
mod memory;
mod pids;
mod setting;

use std::{
    cell::Cell,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
pub(crate) use setting::Controllers;
use setting::Setting;

use crate::{
    error::{Error, at},
    spec::{DeviceRule, Resources},
    sys,
};

/// Control files that are read hold one number or one line a process.
const MAX_READ: usize = 1 << 20;

/// A mounted cgroup v2 hierarchy in which containers get their directories.
#[derive(Debug)]
pub struct Hierarchy {
    root: OwnedFd,
    available: Controllers,
    enabled: Cell<Controllers>,
    missing_is_error: bool,
}

/// A container's control group.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: OwnedFd,
    name: String,
    memory: bool,
}

impl Hierarchy {
    /// Opens the hierarchy that is mounted on `path`. When `missing_is_error` is false, limits whose controller the
    /// hierarchy lacks (a host with cgroup v1) are left out with a warning.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open(path: &str, missing_is_error: bool) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(at("open", path))?;
        let available = if missing_is_error {
            // The kernel says so when one is wanted that it does not have.
            Controllers::all()
        } else {
            let text = read(root.as_fd(), "cgroup.controllers")
                .map_err(at("read", format_args!("{path}/cgroup.controllers")))?;
            Controllers::parse(&text)
        };
        Ok(Self { root, available, enabled: Cell::default(), missing_is_error })
    }

    /// Makes a container's group with its limits, empty as yet. Returns a line for each limit that had to be left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit that cannot be, [`Error::State`] when the group exists, [`Error::System`].
    pub(crate) fn create(
        &self,
        container: &str,
        resources: &Resources,
    ) -> Result<(Cgroup, Vec<String>), Error> {
        let mut warnings = Vec::new();
        let mut settings = settings(resources)?;
        settings.retain(|setting| {
            let there = self.missing_is_error
                || setting.controller.is_empty()
                || self.available.contains(setting.controller);
            if !there {
                warnings.push(format!(
                    "{} = {} is not applied: this host's cgroup v2 hierarchy has no {:?} controller",
                    setting.file,
                    setting.value.trim_end(),
                    setting.controller
                ));
            }
            there
        });
        let mut wanted = Controllers::of(&settings);
        wanted.extend(Controllers::basic().intersection(self.available));
        self.enable(wanted)?;
        let cgroup = self.make_directory(container, wanted)?;
        match cgroup.limit(&settings) {
            Ok(()) => Ok((cgroup, warnings)),
            Err(error) => {
                // The limit's error is what matters.
                let _ = self.remove(&cgroup);
                Err(error)
            }
        }
    }

    fn enable(&self, wanted: Controllers) -> Result<(), Error> {
        let missing = wanted.without(self.enabled.get());
        if !missing.is_empty() {
            write(self.root.as_fd(), "cgroup.subtree_control", &missing.to_string()).map_err(
                at("enable cgroup controllers with", format_args!("{:?}", missing.to_string())),
            )?;
            self.enabled.set(self.enabled.get().union(wanted));
        }
        Ok(())
    }

    fn make_directory(&self, container: &str, controllers: Controllers) -> Result<Cgroup, Error> {
        let name = format!("bulkhead-{container}");
        let mode = Mode::from_raw_mode(0o755);
        let mut made = rustix::fs::mkdirat(&self.root, &name, mode);
        if made == Err(Errno::EXIST) {
            // Left behind by an agent that was killed: it can go when nobody is in it.
            made = rustix::fs::unlinkat(&self.root, &name, AtFlags::REMOVEDIR)
                .and_then(|()| rustix::fs::mkdirat(&self.root, &name, mode));
        }
        match made {
            Err(Errno::BUSY) => {
                return Err(Error::state(container, "still has processes in its cgroup"));
            }
            made => made.map_err(at("make cgroup", &name))?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.root, &name, flags, Mode::empty())
            .map_err(at("open cgroup", &name))?;
        Ok(Cgroup { dir, name, memory: controllers.contains("memory") })
    }

    /// Removes a group whose processes are gone.
    ///
    /// # Errors
    /// [`Error::System`], `EBUSY` among its reasons.
    pub(crate) fn remove(&self, cgroup: &Cgroup) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.root, &cgroup.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(at("remove cgroup", &cgroup.name)(errno)),
        }
    }
}

impl Cgroup {
    fn limit(&self, settings: &[Setting]) -> Result<(), Error> {
        for setting in settings {
            match write(self.dir.as_fd(), &setting.file, &setting.value) {
                // A kernel that counts no swap, as a guest's, which has none: the limit holds.
                Err(Errno::NOENT) if setting.file == "memory.swap.max" => {}
                written => written.map_err(at(
                    "set the limit",
                    format_args!("{} = {}", setting.file, setting.value.trim_end()),
                ))?,
            }
        }
        Ok(())
    }

    /// Restricts the group's processes to the devices that the rules allow. To be done once the first one has mounted its disks, which
    /// the rules need not allow it to open.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a rule that cannot be, [`Error::System`].
    pub(crate) fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<(), Error> {
        device::attach(self.dir.as_fd(), rules)
    }

    /// For clone3's `CLONE_INTO_CGROUP`.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Signals every process in the group.
    ///
    /// # Errors
    /// [`Error::System`].
    pub(crate) fn signal_all(&self, signal: i32) -> Result<(), Error> {
        if signal == libc::SIGKILL {
            return write(self.dir.as_fd(), "cgroup.kill", "1").map_err(at("kill", &self.name));
        }
        let text = read(self.dir.as_fd(), "cgroup.procs").map_err(at("list", &self.name))?;
        for pid in text.lines().filter_map(|line| line.parse::<u32>().ok().filter(|pid| *pid > 1)) {
            match sys::kill(pid, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(at("signal process", pid)(errno)),
            }
        }
        Ok(())
    }

    /// The memory limit killed a process (`oom_kill` of `memory.events`). False when that cannot be known.
    pub(crate) fn oom_killed(&self) -> bool {
        self.memory
            && read(self.dir.as_fd(), "memory.events").is_ok_and(|text| memory::oom_killed(&text))
    }
}

/// Some limit is wanted.
pub(crate) fn limits_anything(resources: &Resources) -> Result<bool, Error> {
    Ok(!settings(resources)?.is_empty())
}

fn settings(resources: &Resources) -> Result<Vec<Setting>, Error> {
    let mut all = Vec::new();
    if let Some(memory) = &resources.memory {
        memory::settings(memory, &mut all)?;
    }
    if let Some(cpu) = &resources.cpu {
        cpu::settings(cpu, &mut all)?;
    }
    if let Some(pids) = &resources.pids {
        pids::settings(*pids, &mut all);
    }
    if let Some(io) = &resources.block_io {
        io::settings(io, &mut all)?;
    }
    hugetlb::settings(&resources.hugepage_limits, &mut all)?;
    setting::unified(&resources.unified, &mut all)?;
    Ok(all)
}

fn write(dir: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), Errno> {
    let file = rustix::fs::openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

fn read(dir: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    let file = rustix::fs::openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(512);
    while text.len() < MAX_READ {
        text.reserve(512);
        if rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text))? == 0 {
            break;
        }
    }
    String::from_utf8(text).map_err(|_| Errno::ILSEQ)
}
