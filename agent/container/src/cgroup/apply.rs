//! Writes settings into a group's files.

use rustix::io::Errno;

use super::{
    group::Cgroup,
    setting::{Missing, Setting},
};
use crate::error::{Error, at};

impl Cgroup {
    /// Writes settings. What the kernel refuses because it does not fit with what another file still says (a limit of
    /// memory above that of memory and swap, a quota above its period) is written again after the others. Returns a line
    /// for each wish that this kernel does not know.
    pub(super) fn apply(&self, settings: &[Setting]) -> Result<Vec<String>, Error> {
        let mut warnings = Vec::new();
        let mut again = Vec::new();
        for setting in settings {
            match self.write(setting) {
                Ok(()) => {}
                Err(Errno::INVAL | Errno::BUSY) => again.push(setting),
                Err(errno) => missing(setting, errno, &mut warnings)?,
            }
        }
        for setting in again {
            if let Err(errno) = self.write(setting) {
                return Err(self.refused(setting, errno));
            }
        }
        Ok(warnings)
    }

    fn write(&self, setting: &Setting) -> Result<(), Errno> {
        let Some(dir) = self.directory(setting.controller) else { return Err(Errno::NODEV) };
        match (dir.write(&setting.file, &setting.value), &setting.missing) {
            (Err(Errno::NOENT), Missing::Instead(file, value)) => dir.write(file, value),
            (written, _) => written,
        }
    }

    fn refused(&self, setting: &Setting, errno: Errno) -> Error {
        let usage = match (self.directory("memory"), setting.file.as_ref()) {
            (Some(dir), "memory.limit_in_bytes") => dir.number("memory.usage_in_bytes"),
            _ => None,
        };
        match usage {
            Some(usage) => at(
                "set the limit",
                format_args!("{} = {} ({usage} bytes are in use)", setting.file, setting.value),
            )(errno),
            None => error(setting, errno),
        }
    }
}

fn missing(setting: &Setting, errno: Errno, warnings: &mut Vec<String>) -> Result<(), Error> {
    match (&setting.missing, errno) {
        (Missing::Holds, Errno::NOENT) => Ok(()),
        // Linux 5.16 and later have the file of the kernel's memory and refuse what is written (524, ENOTSUPP).
        (Missing::Warn, _) => {
            warnings.push(format!(
                "{} = {} is ignored: this kernel has no such limit",
                setting.file, setting.value
            ));
            Ok(())
        }
        (_, errno) => Err(error(setting, errno)),
    }
}

fn error(setting: &Setting, errno: Errno) -> Error {
    let (file, value) = (&setting.file, setting.value.trim_end());
    match errno {
        Errno::NODEV => Error::Invalid {
            what: "linux.resources".into(),
            value: format!("{file} = {value}"),
            why:
                "this system has no cgroup controller for it; leave it out, or mount the controller"
                    .into(),
        },
        Errno::NOENT => Error::Invalid {
            what: "linux.resources".into(),
            value: format!("{file} = {value}"),
            why: "this kernel's cgroups have no such file; leave it out".into(),
        },
        errno => at("set the limit", format_args!("{file} = {value}"))(errno),
    }
}
