//! What a machine is and where it ran: a saved machine goes on only as the same machine on the same kind of host.

use std::{fmt, fs, os::unix::fs::MetadataExt, path::Path};

use serde::{Deserialize, Serialize};

use crate::{api::Backend, arch::current::processor::Processor, kvm::Detected};

const MODULES: [&str; 3] = ["kvm_intel", "kvm_amd", "kvm_pvm"];

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The VMM's version.
    pub vmm: String,
    /// The machine.
    pub machine: Shape,
    /// Where it ran.
    pub host: Place,
}

/// The machine as its configuration says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The file of the kernel that it was booted from.
    pub kernel: FileIdentity,
    /// The file of the initial RAM disk.
    pub initrd: Option<FileIdentity>,
    /// The user's words for the kernel.
    pub cmdline: String,
    /// How many processors.
    pub vcpus: u8,
    /// Its memory in bytes.
    pub memory: u64,
    /// Its devices in their order, in words for people.
    pub devices: Vec<String>,
}

/// A file, told from others without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    inode: u64,
}

/// A host, as far as a machine in KVM depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The kernel's release and build.
    pub kernel: String,
    /// KVM's modules, or that there are none.
    pub modules: String,
    /// The processor.
    pub processor: Processor,
}

/// What kind of KVM a machine ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// See [`Detected::Hardware`].
    Hardware,
    /// See [`Detected::Software`].
    Software,
}

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the machine was saved with {what} {saved}, and here it is {here}; save it again")]
pub struct Difference {
    what: &'static str,
    saved: String,
    here: String,
}

impl FileIdentity {
    /// Of an open file.
    #[must_use]
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanoseconds) = self.modified;
        let Self { length, inode, .. } = self;
        write!(f, "of {length} bytes, modified at {seconds}.{nanoseconds:09}, inode {inode}")
    }
}

impl Place {
    /// This host.
    #[must_use]
    pub fn here() -> Self {
        let name = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Self {
            kernel: format!("{} {}", text(name.release()), text(name.version())),
            modules: modules(Path::new("/sys/module")),
            processor: Processor::here(),
        }
    }
}

fn modules(directory: &Path) -> String {
    let loaded: Vec<_> = MODULES.into_iter().filter(|name| directory.join(name).exists()).collect();
    if loaded.is_empty() { "none".to_owned() } else { loaded.join(" ") }
}

impl Kind {
    /// Whether it is the one that is asked for. Which one there is follows from KVM's modules, which are the same.
    ///
    /// # Errors
    /// [`Difference`].
    pub fn check(self, backend: Backend) -> Result<(), Difference> {
        let name = |kind| match kind {
            Kind::Hardware => "hardware",
            Kind::Software => "software",
        };
        match backend {
            Backend::Auto => Ok(()),
            Backend::Hardware => differ("the backend", name(self), name(Kind::Hardware)),
            Backend::Software => differ("the backend", name(self), name(Kind::Software)),
        }
    }
}

impl From<Detected> for Kind {
    fn from(kind: Detected) -> Self {
        match kind {
            Detected::Hardware => Kind::Hardware,
            Detected::Software => Kind::Software,
        }
    }
}

impl From<Kind> for Detected {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Hardware => Detected::Hardware,
            Kind::Software => Detected::Software,
        }
    }
}

impl Identity {
    /// Of a machine of `shape` on this host.
    #[must_use]
    pub fn here(shape: Shape) -> Self {
        Self { vmm: env!("CARGO_PKG_VERSION").to_owned(), machine: shape, host: Place::here() }
    }

    /// Whether `here` is the same; if not, the first thing that differs.
    ///
    /// # Errors
    /// [`Difference`].
    pub fn check(&self, here: &Self) -> Result<(), Difference> {
        let (was, is) = (&self.machine, &here.machine);
        differ("the VMM's version", &self.vmm, &here.vmm)?;
        differ("a kernel", &was.kernel, &is.kernel)?;
        match (&was.initrd, &is.initrd) {
            (Some(was), Some(is)) => differ("an initial RAM disk", was, is)?,
            (was, is) => differ("an initial RAM disk", there(was), there(is))?,
        }
        differ("the kernel's words", quoted(&was.cmdline), quoted(&is.cmdline))?;
        differ("a number of virtual CPUs of", was.vcpus, is.vcpus)?;
        differ("a memory in bytes of", was.memory, is.memory)?;
        differ("the devices", list(&was.devices), list(&is.devices))?;
        differ("the host's kernel", &self.host.kernel, &here.host.kernel)?;
        differ("the host's KVM modules", &self.host.modules, &here.host.modules)?;
        match self.host.processor.difference(&here.host.processor) {
            None => Ok(()),
            Some((what, saved, here)) => Err(Difference::new(what, &saved, here)),
        }
    }
}

fn differ<T: PartialEq + ToString>(what: &'static str, was: T, is: T) -> Result<(), Difference> {
    if was == is {
        return Ok(());
    }
    Err(Difference::new(what, &was.to_string(), is.to_string()))
}

impl Difference {
    /// What was `saved` is a file's words: a line of them is shown, and no more than a line's length.
    fn new(what: &'static str, saved: &str, here: String) -> Self {
        const SHOWN: usize = 400;
        let printable = |c: char| if c.is_control() { '?' } else { c };
        let mut shown: String = saved.chars().map(printable).take(SHOWN).collect();
        if shown.len() < saved.len() {
            shown.push_str(" ...");
        }
        Self { what, saved: shown, here }
    }
}

fn there<T>(file: &Option<T>) -> &'static str {
    if file.is_some() { "that there was" } else { "that there was not" }
}

fn quoted(words: &str) -> String {
    format!("{words:?}")
}

fn list(devices: &[String]) -> String {
    devices.join(", ")
}
