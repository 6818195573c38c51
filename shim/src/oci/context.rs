//! What the words before the verb say: where states are, what isolates, where the log goes.

use std::path::PathBuf;

use super::{
    args::Parsed,
    error::OciError,
    log::{Level, Log},
};
use crate::{
    choice::{self, Choice},
    lifecycle::{Container, StateRoot},
};

const ROOT: &str = "/run/bulkhead-oci";

/// The command line's common part.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) root: StateRoot,
    pub(super) systemd_cgroup: bool,
    log: &'a Log,
    /// What the command line says of a new container.
    pub(super) choice: Choice,
}

impl<'a> Context<'a> {
    pub(super) fn new(globals: &Parsed, verb: &Parsed, log: &'a Log) -> Result<Self, OciError> {
        let root = match globals.some("root") {
            Some(root) => root.into(),
            None => default_root(),
        };
        let wanted = verb.one("isolation").or(globals.one("isolation"));
        let isolation = wanted.map(|name| choice::isolation(name, "--isolation")).transpose()?;
        let wanted = verb.some("template").or(globals.some("template"));
        let template = wanted.map(|name| choice::mode(name, "--template")).transpose()?;
        let tenant = verb.one("tenant").or(globals.one("tenant")).map(str::to_owned);
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
        let choice = Choice { isolation, template, tenant };
        Ok(Self { root: StateRoot::open(root), systemd_cgroup, log, choice })
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
}

/// The container's name, which every verb that gets here has.
pub(super) fn id(verb: &Parsed) -> &str {
    verb.arguments.first().map_or("", String::as_str)
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
