//! Labels of security modules, which a process gets with its program: AppArmor's profile and SELinux's label.

use std::{fmt, os::fd::OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::{
    error::{Error, at},
    spec::Process,
};

/// A label to be had with the next execve: its file under `/proc` and what to write into it.
#[derive(Debug)]
pub(crate) struct Label {
    file: &'static str,
    text: String,
}

/// A label's file, opened where `/proc` is the outside's.
#[derive(Debug)]
pub(crate) struct Opened<'a>(OwnedFd, &'a Label);

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.file == APPARMOR { "apparmorProfile" } else { "selinuxLabel" };
        write!(f, "process.{field} {:?}", self.text.trim_start_matches("exec "))
    }
}

const APPARMOR: &str = "/proc/thread-self/attr/apparmor/exec";
const SELINUX: &str = "/proc/thread-self/attr/exec";

impl Label {
    /// What a process wants; `None` when it wants nothing.
    pub(crate) fn new(process: &Process) -> Option<Self> {
        let wanted = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
        if let Some(profile) = wanted(&process.apparmor_profile) {
            return Some(Self { file: APPARMOR, text: format!("exec {profile}") });
        }
        wanted(&process.selinux_label).map(|text| Self { file: SELINUX, text })
    }

    pub(crate) fn open(&self) -> Result<Opened<'_>, Error> {
        rustix::fs::open(self.file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map(|file| Opened(file, self))
            .map_err(at("set the process's security label: open", self.file))
    }
}

impl Opened<'_> {
    pub(crate) fn apply(&self) -> Result<(), Error> {
        rustix::io::write(&self.0, self.1.text.as_bytes())
            .map(drop)
            .map_err(at("set the process's security label", format_args!("{:?}", self.1.text)))
    }
}

/// Refuses labels of a security module that this kernel does not have.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn check(process: &Process, mount_label: Option<&str>) -> Result<(), Error> {
    let wanted = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    if let Some(profile) = wanted(&process.apparmor_profile) {
        let state = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !state.is_ok_and(|state| state.starts_with('Y')) {
            let why = "this kernel has no AppArmor; leave it out";
            return Err(Error::invalid("process.apparmorProfile", profile, why));
        }
    }
    let labels = [
        ("process.selinuxLabel", wanted(&process.selinux_label)),
        ("linux.mountLabel", mount_label.map(str::to_owned).filter(|label| !label.is_empty())),
    ];
    for (field, label) in labels {
        let Some(label) = label else { continue };
        if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(Error::invalid(field, label, "this kernel has no SELinux; leave it out"));
        }
        if field == "linux.mountLabel" {
            let why = "labels of mounts are not supported; label the files, or leave it out";
            return Err(Error::invalid(field, label, why));
        }
    }
    Ok(())
}
