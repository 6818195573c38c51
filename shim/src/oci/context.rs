//! What the words before the verb say: where states are, what isolates, where the log goes.

use std::path::PathBuf;

use super::{
    args::Parsed,
    error::OciError,
    log::{Level, Log},
};
use crate::{
    lifecycle::{Container, StateRoot},
    sandbox::{Config, Isolation},
    settings::{ISOLATION_ANNOTATION, Settings},
};

const ROOT: &str = "/run/bulkhead-oci";

/// The command line's common part.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) root: StateRoot,
    pub(super) systemd_cgroup: bool,
    log: &'a Log,
    isolation: Option<Isolation>,
}

impl<'a> Context<'a> {
    pub(super) fn new(globals: &Parsed, verb: &Parsed, log: &'a Log) -> Result<Self, OciError> {
        let root = match globals.some("root") {
            Some(root) => root.into(),
            None => default_root(),
        };
        let wanted = verb.one("isolation").or(globals.one("isolation"));
        let isolation = wanted.map(|name| isolation(name, "--isolation")).transpose()?;
        let systemd_cgroup = match globals.some("cgroup-manager") {
            None | Some("cgroupfs" | "disabled") => globals.has("systemd-cgroup"),
            Some("systemd") => true,
            Some(other) => {
                return Err(OciError::Refused(format!(
                    "--cgroup-manager {other}: cgroupfs, systemd or disabled is wanted"
                )));
            }
        };
        if !matches!(globals.some("rootless"), None | Some("true" | "false" | "auto")) {
            let value = globals.one("rootless").unwrap_or_default();
            return Err(OciError::Refused(format!(
                "--rootless {value}: true, false or auto is wanted"
            )));
        }
        Ok(Self { root: StateRoot::open(root), systemd_cgroup, log, isolation })
    }

    /// The container that the first argument names.
    pub(super) fn container(&self, verb: &Parsed) -> Result<Container, OciError> {
        Ok(self.root.get(id(verb))?)
    }

    /// Lines that do not change the verb's end.
    pub(super) fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.log.line(Level::Warning, warning);
        }
    }

    pub(super) fn debug(&self, line: &str) {
        self.log.line(Level::Debug, line);
    }

    /// What isolates a new container: the flag, `BULKHEAD_ISOLATION`, the annotation, the settings' file.
    pub(super) fn isolation(&self, config: &Config) -> Result<Isolation, OciError> {
        if let Some(isolation) = self.isolation {
            return Ok(isolation);
        }
        if let Some(name) = std::env::var_os("BULKHEAD_ISOLATION").filter(|name| !name.is_empty()) {
            return isolation(&name.to_string_lossy(), "BULKHEAD_ISOLATION");
        }
        let settings = Settings::load()?;
        match config.spec().annotations.get(ISOLATION_ANNOTATION) {
            None => Ok(settings.isolation),
            Some(name) => {
                let wanted = isolation(name, ISOLATION_ANNOTATION)?;
                let tightens = wanted == Isolation::Vm || wanted == settings.isolation;
                let allowed =
                    settings.allow_annotations.iter().any(|name| name == ISOLATION_ANNOTATION);
                if tightens || allowed {
                    return Ok(wanted);
                }
                Err(OciError::Refused(format!(
                    "annotations.{ISOLATION_ANNOTATION} {name:?}: less isolation than this host's default needs the \
                     administrator's consent (allow_annotations in /etc/bulkhead/config.toml)"
                )))
            }
        }
    }
}

/// The container's name, which every verb that gets here has.
pub(super) fn id(verb: &Parsed) -> &str {
    verb.arguments.first().map_or("", String::as_str)
}

fn isolation(name: &str, from: &str) -> Result<Isolation, OciError> {
    Isolation::from_name(name)
        .ok_or_else(|| OciError::Refused(format!("{from} {name:?}: vm or host is wanted")))
}

fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return ROOT.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(runtime) => PathBuf::from(runtime).join("bulkhead-oci"),
        None => ROOT.into(),
    }
}
