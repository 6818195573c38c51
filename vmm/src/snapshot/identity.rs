//! What a machine is and where it ran: a saved machine goes on only as the same machine on the same kind of host.

use std::{
    arch::x86_64::{__cpuid_count, CpuidResult},
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{api::Backend, kvm::Detected};

/// CPUID leaves and subleaves that say what a processor can do, and the registers of them (EAX, EBX, ECX, EDX) that are the same on
/// all of a host's processors (Intel SDM, volume 2, CPUID; AMD APM, volume 3, appendix E).
const LEAVES: [(u32, u32, [bool; 4]); 10] = [
    (0x1, 0, [true, false, true, true]),
    (0x7, 0, [true, true, true, true]),
    (0x7, 1, [true, true, false, true]),
    (0xd, 0, [true, false, true, true]),
    (0xd, 1, [true, false, true, true]),
    (0x14, 0, [true, true, true, false]),
    (0x19, 0, [true, true, true, false]),
    (0x8000_0001, 0, [false, false, true, true]),
    (0x8000_0007, 0, [false, false, false, true]),
    (0x8000_0008, 0, [true, true, false, false]),
];
const EXTENDED: u32 = 0x8000_0000;
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

/// A processor's model and features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    vendor: String,
    /// Family, model and stepping, as CPUID has them.
    signature: u32,
    /// The registers of [`LEAVES`], with zeros for those that do not count.
    features: Vec<[u32; 4]>,
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

/// What CPUID says; every x86-64 processor has it.
#[allow(unused_unsafe, reason = "it is safe to call since Rust 1.94")]
fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: the instruction exists on every x86-64 processor and only fills registers.
    unsafe { __cpuid_count(leaf, subleaf) }
}

impl Processor {
    /// The one that executes this.
    #[must_use]
    pub fn here() -> Self {
        let first = cpuid(0, 0);
        let extended = cpuid(EXTENDED, 0);
        let vendor = [first.ebx, first.edx, first.ecx].map(u32::to_le_bytes).concat();
        let features = LEAVES
            .map(|(leaf, subleaf, counts)| {
                let last = if leaf >= EXTENDED { extended.eax } else { first.eax };
                if leaf > last {
                    return [0; 4];
                }
                let found = cpuid(leaf, subleaf);
                let mut registers = [found.eax, found.ebx, found.ecx, found.edx];
                for (register, counts) in registers.iter_mut().zip(counts) {
                    *register = if counts { *register } else { 0 };
                }
                registers
            })
            .to_vec();
        let signature = features.first().map_or(0, |[eax, ..]| *eax);
        Self { vendor: String::from_utf8_lossy(&vendor).into_owned(), signature, features }
    }

    /// Family, model and stepping, each with its extension.
    fn model(&self) -> String {
        let field = |shift: u32, mask: u32| (self.signature >> shift) & mask;
        let mut family = field(8, 0xf);
        let mut model = field(4, 0xf);
        if family == 0xf {
            family += field(20, 0xff);
        }
        if family >= 6 {
            model |= field(16, 0xf) << 4;
        }
        format!("{} family {family} model {model} stepping {}", self.vendor, field(0, 0xf))
    }
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
        self.host.processor.check(&here.host.processor)
    }
}

impl Processor {
    fn check(&self, here: &Self) -> Result<(), Difference> {
        differ("the host's processor", self.model(), here.model())?;
        let features =
            |of: &Self, index: usize| of.features.get(index).copied().unwrap_or_default();
        for (index, (leaf, subleaf, _)) in LEAVES.iter().enumerate() {
            let words = |of| format!("of CPUID {leaf:#x}.{subleaf} = {:x?}", features(of, index));
            differ("processor features", words(self), words(here))?;
        }
        Ok(())
    }
}

fn differ<T: PartialEq + ToString>(what: &'static str, was: T, is: T) -> Result<(), Difference> {
    if was == is {
        return Ok(());
    }
    Err(Difference { what, saved: was.to_string(), here: is.to_string() })
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
