//! What makes two machines alike: a template serves exactly the starts whose shape is its own.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bulkhead_vmm::api::{Backend, SNAPSHOT_VERSION};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{TemplateError, slots::Slots};

/// The form of a template's directory and of what its agent is prepared with. Each change of one is a new version.
const FORMAT: u32 = 3;
/// The longest name of a tenant, in bytes.
const MAX_TENANT: usize = 128;
/// The first processor's part of `/proc/cpuinfo` is shorter.
const MAX_CPU: u64 = 64 << 10;

/// Everything that a machine's clones have from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    format: u32,
    snapshot: u32,
    protocol: u32,
    /// Whose it is.
    pub tenant: Tenant,
    /// Its processors.
    pub vcpus: u8,
    /// Its memory.
    pub memory_mib: u64,
    pub(super) backend: Backend,
    pub(super) kernel: FileIdentity,
    pub(super) initrd: FileIdentity,
    pub(super) vmm: FileIdentity,
    /// Containers can join its clones.
    pub(super) pod: bool,
    slots: Slots,
    host: Host,
}

/// What a start says of its machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's RAM disk.
    pub initrd: PathBuf,
    /// The VMM's program.
    pub vmm: PathBuf,
    /// Processors.
    pub vcpus: u8,
    /// Memory.
    pub memory_mib: u64,
    /// What kind of KVM to expect.
    pub backend: Backend,
    /// Containers can join it.
    pub pod: bool,
    /// Whose it is.
    pub tenant: Tenant,
}

/// Those who may share a template's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tenant {
    /// A user of this host who names no tenant.
    User(u32),
    /// A name.
    Key(String),
}

impl Tenant {
    /// The tenant of this name, or else the calling user.
    ///
    /// # Errors
    /// [`TemplateError::Tenant`].
    pub fn new(name: Option<&str>) -> Result<Self, TemplateError> {
        match name {
            None => Ok(Self::User(rustix::process::geteuid().as_raw())),
            Some(name)
                if !name.is_empty()
                    && name.len() <= MAX_TENANT
                    && !name.chars().any(char::is_control) =>
            {
                Ok(Self::Key(name.to_owned()))
            }
            Some(name) => Err(TemplateError::Tenant(name.escape_debug().collect())),
        }
    }
}

impl std::fmt::Display for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Key(key) => f.write_str(key),
        }
    }
}

/// A file that is neither another one nor changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileIdentity {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileIdentity {
    fn of(path: &Path) -> Result<Self, TemplateError> {
        let path = std::path::absolute(path).map_err(TemplateError::io("find", path))?;
        let found = fs::metadata(&path).map_err(TemplateError::io("look at", &path))?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            path,
        })
    }
}

/// What of the host a saved machine has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    /// `uname -r`: another kernel's KVM may keep other state.
    kernel: String,
    /// Those of its modules that are KVM's.
    kvm: Vec<String>,
    /// Vendor, family, model, stepping and features of its processor.
    cpu: Vec<String>,
}

impl Host {
    fn this() -> Result<Self, TemplateError> {
        let modules = ["kvm_intel", "kvm_amd", "kvm_pvm"];
        let loaded = modules.iter().filter(|name| Path::new("/sys/module").join(name).exists());
        let path = Path::new("/proc/cpuinfo");
        let cpu = File::open(path).and_then(|file| processor(file.take(MAX_CPU)));
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            kvm: loaded.map(|&name| name.to_owned()).collect(),
            cpu: cpu.map_err(TemplateError::io("read", path))?,
        })
    }
}

/// What a program could tell the first processor of a `/proc/cpuinfo` by.
fn processor(text: impl Read) -> io::Result<Vec<String>> {
    const KEYS: [&str; 6] = ["vendor_id", "cpu family", "model", "model name", "stepping", "flags"];
    let mut found = Vec::new();
    // The first page of the file is enough: what is not read is not made by the kernel.
    for line in BufReader::with_capacity(4096, text).lines() {
        let line = line?;
        let Some((key, value)) = line.split_once(':') else { break };
        if KEYS.contains(&key.trim_end()) {
            found.push(format!("{}: {}", key.trim_end(), value.trim()));
        }
    }
    Ok(found)
}

impl Shape {
    /// The shape of a machine on this host, now.
    ///
    /// # Errors
    /// A file that is not there.
    pub fn of(machine: &Machine) -> Result<Self, TemplateError> {
        Ok(Self {
            format: FORMAT,
            snapshot: SNAPSHOT_VERSION,
            protocol: bulkhead_protocol::VERSION,
            tenant: machine.tenant.clone(),
            vcpus: machine.vcpus,
            memory_mib: machine.memory_mib,
            backend: machine.backend,
            kernel: FileIdentity::of(&machine.kernel)?,
            initrd: FileIdentity::of(&machine.initrd)?,
            vmm: FileIdentity::of(&machine.vmm)?,
            pod: machine.pod,
            slots: Slots::of_templates(machine.pod),
            host: Host::this()?,
        })
    }

    /// Its name: SHA-256 of its JSON, whose fields always come in the same order, in 64 hexadecimal digits.
    ///
    /// # Errors
    /// A path that is not text.
    pub fn key(&self) -> Result<Key, TemplateError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| TemplateError::Unfit(format!("a path that is not text: {error}")))?;
        Ok(Key(Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The file of its guest's kernel.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel.path
    }

    /// The file of its guest's agent.
    #[must_use]
    pub fn initrd(&self) -> &Path {
        &self.initrd.path
    }

    /// Whether a start of this host, as it is now, could have this shape.
    pub(super) fn is_current(&self) -> bool {
        let files = [&self.kernel, &self.initrd, &self.vmm];
        self.format == FORMAT
            && self.snapshot == SNAPSHOT_VERSION
            && self.protocol == bulkhead_protocol::VERSION
            && self.slots == Slots::of_templates(self.pod)
            && files.iter().all(|file| FileIdentity::of(&file.path).is_ok_and(|now| now == **file))
            && Host::this().is_ok_and(|host| host == self.host)
    }
}

/// A template's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// The key of this text, if it is one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let good = text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self(text.to_owned()))
    }

    /// All of its digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// So many digits as people read.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::testing;

    #[test]
    fn whatever_differs_makes_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let machine = testing::machine(dir.path());
        let key = |machine: &Machine| Shape::of(machine).unwrap().key().unwrap();
        let first = key(&machine);
        assert_eq!(first, key(&machine));
        assert_eq!(Key::parse(first.as_str()), Some(first.clone()));
        let mut others = vec![
            key(&Machine { vcpus: 2, ..machine.clone() }),
            key(&Machine { memory_mib: 128, ..machine.clone() }),
            key(&Machine { pod: true, ..machine.clone() }),
            key(&Machine { backend: Backend::Software, ..machine.clone() }),
            key(&Machine { initrd: machine.kernel.clone(), ..machine.clone() }),
        ];
        let root = Tenant::new(None).unwrap();
        for tenant in [Tenant::Key("0".into()), Tenant::Key("a".into()), Tenant::User(u32::MAX)] {
            assert_ne!(tenant, root);
            others.push(key(&Machine { tenant, ..machine.clone() }));
        }
        fs::write(&machine.kernel, "a longer kernel").unwrap();
        others.push(key(&machine));
        // The same bytes in another file are another file.
        let copy = dir.path().join("copy");
        fs::copy(&machine.kernel, &copy).unwrap();
        fs::rename(&copy, &machine.kernel).unwrap();
        others.push(key(&machine));
        others.push(first);
        let count = others.len();
        others.sort();
        others.dedup();
        assert_eq!(others.len(), count);
        fs::remove_file(&machine.vmm).unwrap();
        let error = Shape::of(&machine).unwrap_err().to_string();
        assert!(error.contains("vmm"), "{error}");
    }

    #[test]
    fn a_shape_is_current_until_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let machine = testing::machine(dir.path());
        let shape = Shape::of(&machine).unwrap();
        assert!(shape.is_current());
        let text = serde_json::to_string(&shape).unwrap();
        assert_eq!(serde_json::from_str::<Shape>(&text).unwrap(), shape);
        let mut foreign = shape.clone();
        foreign.host.cpu.push("flags: of another".into());
        assert!(!foreign.is_current());
        fs::write(&machine.vmm, "another").unwrap();
        assert!(!shape.is_current());
    }

    #[test]
    fn only_the_first_processor_counts_and_not_its_speed() {
        let text = "processor\t: 0\nvendor_id\t: A\ncpu MHz\t\t: 1\nflags\t\t: fpu sse\n\nvendor_id\t: B\n";
        assert_eq!(processor(text.as_bytes()).unwrap(), ["vendor_id: A", "flags: fpu sse"]);
        assert!(Host::this().unwrap().cpu.len() >= 3);
    }

    #[test]
    fn tenants_have_printable_names() {
        for good in ["a", "team 7", "\u{e9}"] {
            assert_eq!(Tenant::new(Some(good)).unwrap(), Tenant::Key(good.into()));
        }
        for bad in ["", "a\nb", &"x".repeat(129)] {
            assert!(Tenant::new(Some(bad)).is_err(), "{bad:?}");
        }
        for bad in ["", "../../etc", &"G".repeat(64), &"a".repeat(63)] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
    }
}
