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
    settings::{self, ISOLATION_ANNOTATION, Settings},
    template::{MODE_ANNOTATION, Mode, TENANT_ANNOTATION},
};

const ROOT: &str = "/run/bulkhead-oci";

/// The command line's common part.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) root: StateRoot,
    pub(super) systemd_cgroup: bool,
    log: &'a Log,
    isolation: Option<Isolation>,
    template: Option<Mode>,
    tenant: Option<String>,
}

impl<'a> Context<'a> {
    pub(super) fn new(globals: &Parsed, verb: &Parsed, log: &'a Log) -> Result<Self, OciError> {
        let root = match globals.some("root") {
            Some(root) => root.into(),
            None => default_root(),
        };
        let wanted = verb.one("isolation").or(globals.one("isolation"));
        let isolation = wanted.map(|name| isolation(name, "--isolation")).transpose()?;
        let wanted = verb.some("template").or(globals.some("template"));
        let template = wanted.map(|name| mode(name, "--template")).transpose()?;
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
        Ok(Self { root: StateRoot::open(root), systemd_cgroup, log, isolation, template, tenant })
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
                if tightens || settings.allows(ISOLATION_ANNOTATION) {
                    return Ok(wanted);
                }
                Err(OciError::Refused(format!(
                    "annotations.{ISOLATION_ANNOTATION} {name:?}: less isolation than this host's default needs the \
                     administrator's consent (allow_annotations in /etc/bulkhead/config.toml)"
                )))
            }
        }
    }

    /// Whether a new container's microVM is a clone: the flag, `BULKHEAD_TEMPLATE`, the annotation; none: as the settings' file says.
    pub(super) fn template(&self, config: &Config) -> Result<Option<Mode>, OciError> {
        if self.template.is_some() {
            return Ok(self.template);
        }
        if let Some(mode) = settings::template_variable()? {
            return Ok(Some(mode));
        }
        let Some(name) = config.spec().annotations.get(MODE_ANNOTATION) else { return Ok(None) };
        let settings = Settings::load()?;
        let wanted = mode(name, MODE_ANNOTATION)?;
        // A machine that boots has nothing in common with others.
        let tightens = wanted == Mode::Never || wanted == settings.template.mode;
        if tightens || settings.allows(MODE_ANNOTATION) {
            return Ok(Some(wanted));
        }
        Err(OciError::Refused(format!(
            "annotations.{MODE_ANNOTATION} {name:?}: another mode than this host's default needs the administrator's \
             consent (allow_annotations in /etc/bulkhead/config.toml)"
        )))
    }

    /// Whose template it may be: the flag, the annotation; none: the calling user's.
    pub(super) fn tenant(&self, config: &Config) -> Result<Option<String>, OciError> {
        let named = config.spec().annotations.get(TENANT_ANNOTATION);
        match (&self.tenant, named) {
            (Some(tenant), _) => Ok(Some(tenant.clone())),
            (None, None) => Ok(None),
            (None, Some(tenant)) if Settings::load()?.allows(TENANT_ANNOTATION) => {
                Ok(Some(tenant.clone()))
            }
            (None, Some(tenant)) => Err(OciError::Refused(format!(
                "annotations.{TENANT_ANNOTATION} {tenant:?}: to choose whose memory a microVM begins with needs the \
                 administrator's consent (allow_annotations in /etc/bulkhead/config.toml)"
            ))),
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

fn mode(name: &str, from: &str) -> Result<Mode, OciError> {
    Mode::from_name(name).ok_or_else(|| {
        OciError::Refused(format!("{from} {name:?}: auto, never or require is wanted"))
    })
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
