//! Where things are: environment variables, then `/etc/bulkhead/config.toml`, then defaults.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bulkhead_vmm::api::Backend;
use serde::{Deserialize, Serialize};

use crate::{
    cni::Setup,
    sandbox::vm::admission,
    size::MemorySize,
    template::{self, Mode, Templates},
};

/// The annotation of a bundle that chooses its isolation, where [`Settings::allow_annotations`] has it.
pub const ISOLATION_ANNOTATION: &str = "dev.bulkhead.isolation";

const FILE: &str = "/etc/bulkhead/config.toml";
const LIBRARY: &str = "/usr/lib/bulkhead";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says what is not understood.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where, in one line.
        message: String,
    },
    /// A variable's value is not one.
    #[error("{name}={value}: {need} is needed")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        need: &'static str,
    },
    /// A part of the installation is missing.
    #[error("{what} is not there: {tried} (build it with `make build`, or set {variable})")]
    Missing {
        /// The part.
        what: &'static str,
        /// The paths that were tried.
        tried: String,
        /// The variable that names another one.
        variable: &'static str,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    run: Option<PathBuf>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    vmm: Option<PathBuf>,
    stamp: Option<PathBuf>,
    scout: Option<PathBuf>,
    boot_timeout: Option<u64>,
    kvm: Option<Backend>,
    isolation: Option<Isolation>,
    allow_annotations: Option<Vec<String>>,
    memory: Option<MemorySize>,
    log: Option<LogLimits>,
    template: Option<template::Section>,
    admission: Option<admission::Rule>,
    network: Option<NetworkSection>,
}

/// `[network]`: what is not given is as [`Setup`] has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkSection {
    config_dir: Option<PathBuf>,
    plugin_dirs: Option<Vec<PathBuf>>,
    timeout: Option<u64>,
}

/// What separates a container from this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A microVM with a kernel of its own
    #[default]
    Vm,
    /// Namespaces and cgroups of this host's kernel
    Host,
}

impl Isolation {
    /// The isolation of this name: `vm` or `host`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "vm" => Some(Self::Vm),
            "host" => Some(Self::Host),
            _ => None,
        }
    }

    /// Its name, as everybody writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Host => "host",
        }
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of what a container writes is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogLimits {
    /// A log file that would grow beyond this is put aside and a new one begun.
    pub max_size: MemorySize,
    /// So many files are kept, the one being written included.
    pub max_file: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_size: MemorySize(64 << 20), max_file: 4 }
    }
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Images and writable layers.
    pub data: PathBuf,
    /// State of running containers.
    pub run: PathBuf,
    /// How long a guest may take to answer.
    pub boot_timeout: Duration,
    /// What kind of KVM to expect.
    pub backend: Backend,
    /// What separates a container from this host when nobody says otherwise.
    pub isolation: Isolation,
    /// The annotations `dev.bulkhead.*` that a bundle may set; all others are refused.
    pub allow_annotations: Vec<String>,
    /// Memory of a microVM whose container has no limit.
    pub memory: MemorySize,
    /// How much of what a container writes is kept.
    pub log: LogLimits,
    /// When microVMs are clones, and of what.
    pub template: Templates,
    /// When a microVM is refused for want of memory.
    pub admission: admission::Rule,
    /// Where networks are.
    pub network: Setup,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    vmm: Option<PathBuf>,
    stamp: Option<PathBuf>,
    scout: Option<PathBuf>,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// [`SettingsError`] for what is set but cannot be used.
    pub fn load() -> Result<Self, SettingsError> {
        let file = read_file(Path::new(FILE))?;
        let root = rustix::process::geteuid().is_root();
        let boot_timeout = seconds("BULKHEAD_BOOT_TIMEOUT")?.or(file.boot_timeout);
        let backend = match env::var("BULKHEAD_KVM") {
            Ok(value) => match value.as_str() {
                "auto" => Backend::Auto,
                "hardware" => Backend::Hardware,
                "software" => Backend::Software,
                _ => {
                    return Err(SettingsError::Variable {
                        name: "BULKHEAD_KVM",
                        value,
                        need: "auto, hardware or software",
                    });
                }
            },
            Err(_) => file.kvm.unwrap_or_default(),
        };
        let isolation = match env::var("BULKHEAD_ISOLATION") {
            Ok(value) if !value.is_empty() => {
                Isolation::from_name(&value).ok_or(SettingsError::Variable {
                    name: "BULKHEAD_ISOLATION",
                    value,
                    need: "vm or host",
                })?
            }
            _ => file.isolation.unwrap_or_default(),
        };
        let data = variable("BULKHEAD_DATA").or(file.data).unwrap_or_else(|| {
            if root { "/var/lib/bulkhead".into() } else { home(".local/share/bulkhead") }
        });
        Ok(Self {
            template: templates(file.template.unwrap_or_default(), &data)?,
            data,
            run: variable("BULKHEAD_RUN").or(file.run).unwrap_or_else(|| {
                match env::var_os("XDG_RUNTIME_DIR") {
                    Some(runtime) if !root => Path::new(&runtime).join("bulkhead"),
                    _ if !root => home(".local/state/bulkhead"),
                    _ => "/run/bulkhead".into(),
                }
            }),
            boot_timeout: Duration::from_secs(boot_timeout.unwrap_or(180)),
            backend,
            isolation,
            allow_annotations: file.allow_annotations.unwrap_or_default(),
            memory: file.memory.unwrap_or(MemorySize(256 << 20)),
            log: file.log.unwrap_or_default(),
            admission: admission_rule(file.admission.unwrap_or_default())?,
            network: network(file.network.unwrap_or_default())?,
            kernel: variable("BULKHEAD_KERNEL").or(file.kernel),
            initrd: variable("BULKHEAD_INITRD").or(file.initrd),
            vmm: variable("BULKHEAD_VMM").or(file.vmm),
            stamp: variable("BULKHEAD_STAMP").or(file.stamp),
            scout: variable("BULKHEAD_SCOUT").or(file.scout),
        })
    }

    /// Whether a bundle may set this annotation as it likes.
    #[must_use]
    pub fn allows(&self, annotation: &str) -> bool {
        self.allow_annotations.iter().any(|allowed| allowed == annotation)
    }

    /// Lets a command that runs in another directory have the same settings.
    pub fn export(&self, command: &mut Command) {
        let paths = [
            ("BULKHEAD_DATA", Some(&self.data)),
            ("BULKHEAD_RUN", Some(&self.run)),
            ("BULKHEAD_KERNEL", self.kernel.as_ref()),
            ("BULKHEAD_INITRD", self.initrd.as_ref()),
            ("BULKHEAD_VMM", self.vmm.as_ref()),
            ("BULKHEAD_TEMPLATES", Some(&self.template.directory)),
            ("BULKHEAD_CNI_CONF_DIR", Some(&self.network.config_dir)),
        ];
        if let Ok(plugins) = env::join_paths(&self.network.plugin_dirs) {
            command.env("BULKHEAD_CNI_PATH", plugins);
        }
        command.env("BULKHEAD_TEMPLATE", self.template.mode.name());
        for (name, path) in paths {
            if let Some(path) = path.and_then(|path| std::path::absolute(path).ok()) {
                command.env(name, path);
            }
        }
    }

    /// The guest's kernel.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn kernel(&self) -> Result<PathBuf, SettingsError> {
        find(self.kernel.as_deref(), "the guest kernel", "vmlinux", "BULKHEAD_KERNEL")
    }

    /// The guest's initial RAM disk, which holds the agent.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn initrd(&self) -> Result<PathBuf, SettingsError> {
        find(self.initrd.as_deref(), "the guest agent", "bulkhead-initrd.cpio", "BULKHEAD_INITRD")
    }

    /// The virtual machine monitor.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn vmm(&self) -> Result<PathBuf, SettingsError> {
        find(self.vmm.as_deref(), "the VMM", "bulkhead-vmm", "BULKHEAD_VMM")
    }

    /// The program that a bench runs first in its containers.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn stamp(&self) -> Result<PathBuf, SettingsError> {
        find(self.stamp.as_deref(), "the bench's program", "bulkhead-stamp", "BULKHEAD_STAMP")
    }

    /// The program that a bench runs in its containers to look around and to do what it is told.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn scout(&self) -> Result<PathBuf, SettingsError> {
        find(self.scout.as_deref(), "the bench's scout", "bulkhead-scout", "BULKHEAD_SCOUT")
    }
}

/// The mode that `BULKHEAD_TEMPLATE` says.
pub(crate) fn template_variable() -> Result<Option<Mode>, SettingsError> {
    let name = "BULKHEAD_TEMPLATE";
    match env::var_os(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => {
            let value = value.to_string_lossy().into_owned();
            let need = "auto, never or require";
            let mode = Mode::from_name(&value);
            mode.map(Some).ok_or(SettingsError::Variable { name, value, need })
        }
    }
}

fn templates(section: template::Section, data: &Path) -> Result<Templates, SettingsError> {
    let directory = variable("BULKHEAD_TEMPLATES").or(section.directory);
    Ok(Templates {
        mode: template_variable()?.or(section.mode).unwrap_or_default(),
        directory: directory.unwrap_or_else(|| data.join("templates")),
        max: section.max.unwrap_or(template::MAX),
    })
}

fn read_file(path: &Path) -> Result<File, SettingsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
        Err(source) => return Err(SettingsError::Read { path: path.into(), source }),
    };
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        SettingsError::Parse {
            path: path.into(),
            message: format!("line {line}: {}", error.message()),
        }
    })
}

/// Where networks are, for the environment and then this section.
fn network(section: NetworkSection) -> Result<Setup, SettingsError> {
    let default = Setup::default();
    let given = env::var_os("BULKHEAD_CNI_PATH").filter(|value| !value.is_empty());
    let given = given.map(|value| env::split_paths(&value).collect());
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let plugins: Vec<PathBuf> = given.or(section.plugin_dirs).unwrap_or(default.plugin_dirs);
    let timeout =
        seconds("BULKHEAD_CNI_TIMEOUT")?.or(section.timeout.filter(|&seconds| seconds > 0));
    Ok(Setup {
        config_dir: variable("BULKHEAD_CNI_CONF_DIR")
            .or(section.config_dir)
            .map_or(default.config_dir, absolute),
        plugin_dirs: plugins.into_iter().map(absolute).collect(),
        timeout: timeout.unwrap_or(default.timeout),
    })
}

/// The seconds that a variable says.
fn seconds(name: &'static str) -> Result<Option<u64>, SettingsError> {
    match env::var(name) {
        Ok(value) => match value.parse() {
            Ok(seconds) if seconds > 0 => Ok(Some(seconds)),
            _ => Err(SettingsError::Variable { name, value, need: "a whole number of seconds" }),
        },
        Err(_) => Ok(None),
    }
}

/// The rule with what the environment says instead.
fn admission_rule(mut rule: admission::Rule) -> Result<admission::Rule, SettingsError> {
    let size = |name| match env::var(name) {
        Ok(value) => match value.parse() {
            Ok(size) => Ok(Some(size)),
            Err(_) => Err(SettingsError::Variable { name, value, need: "a size as 512m" }),
        },
        Err(_) => Ok(None),
    };
    if let Ok(value) = env::var("BULKHEAD_ADMISSION") {
        rule.mode = admission::Mode::from_name(&value).ok_or(SettingsError::Variable {
            name: "BULKHEAD_ADMISSION",
            value,
            need: "start, whole or off",
        })?;
    }
    rule.reserve = size("BULKHEAD_ADMISSION_RESERVE")?.or(rule.reserve);
    rule.start = size("BULKHEAD_ADMISSION_START")?.unwrap_or(rule.start);
    Ok(rule)
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn home(below: &str) -> PathBuf {
    Path::new(&env::var_os("HOME").unwrap_or_else(|| "/".into())).join(below)
}

fn find(
    set: Option<&Path>,
    what: &'static str,
    name: &str,
    variable: &'static str,
) -> Result<PathBuf, SettingsError> {
    let beside = env::current_exe().ok().and_then(|program| Some(program.parent()?.join(name)));
    let candidates: Vec<PathBuf> = match set {
        Some(path) => vec![path.into()],
        None => beside.into_iter().chain([Path::new(LIBRARY).join(name)]).collect(),
    };
    if let Some(found) = candidates.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let tried =
        candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(SettingsError::Missing { what, tried, variable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "data = \"/x\"\nkernal = \"/y\"\n").unwrap();
        let error = read_file(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("kernal"), "{error}");
    }

    #[test]
    fn sizes_isolation_and_annotations_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let text = "isolation = \"host\"\nallow_annotations = [\"dev.bulkhead.isolation\"]\nmemory = \"512m\"\n\
                    [log]\nmax_size = \"1m\"\n[template]\nmode = \"require\"\nmax = 3\n\
                    [admission]\nmode = \"whole\"\nreserve = \"1g\"\n\
                    [network]\nconfig_dir = \"/networks\"\ntimeout = 9\n";
        fs::write(&path, text).unwrap();
        let file = read_file(&path).unwrap();
        assert_eq!(file.isolation, Some(Isolation::Host));
        assert_eq!(file.allow_annotations.unwrap(), [ISOLATION_ANNOTATION]);
        assert_eq!(file.memory, Some(MemorySize(512 << 20)));
        assert_eq!(file.log, Some(LogLimits { max_size: MemorySize(1 << 20), max_file: 4 }));
        let networks = network(file.network.unwrap()).unwrap();
        assert_eq!((networks.config_dir.to_str(), networks.timeout), (Some("/networks"), 9));
        assert_eq!(networks.plugin_dirs, Setup::default().plugin_dirs);
        let templates = templates(file.template.unwrap(), Path::new("/data")).unwrap();
        assert_eq!(templates.max.get(), 3);
        assert!(templates.directory.ends_with("templates"));
        let rule = admission::Rule {
            mode: admission::Mode::Whole,
            reserve: Some(MemorySize(1 << 30)),
            ..admission::Rule::default()
        };
        assert_eq!(file.admission, Some(rule));
        for bad in [
            "isolation = \"jail\"",
            "memory = \"lots\"",
            "[log]\nmax_sizes = 1",
            "[template]\nmax = 0",
            "[template]\nmode = \"no\"",
            "[admission]\nmode = \"no\"",
            "[network]\nplugins = 1",
        ] {
            fs::write(&path, bad).unwrap();
            assert!(read_file(&path).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_part_names_every_path_and_the_way_out() {
        let error =
            find(Some(Path::new("/no/vmlinux")), "the guest kernel", "vmlinux", "BULKHEAD_KERNEL");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("/no/vmlinux") && error.contains("BULKHEAD_KERNEL"), "{error}");
    }
}
