//! Checks a configuration before anything of KVM is made, and opens the files that it names. Everything behind this takes only
//! [`Validated`].

mod shares;

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    api::{Backend, Disk, SerialOutput, Share, VmConfig, Vsock},
    arch::current::layout,
    boot::{Initrd, Kernel},
};

/// The fewest MiB that a Linux guest with its root file system starts in.
const MIN_MEMORY_MIB: u64 = 64;
const MAX_VCPUS: u8 = 8;
/// Context ids 0 to 2 and the last have meanings of their own (vsock(7)).
const CIDS: std::ops::Range<u32> = 3..u32::MAX;
/// A disk's serial number (virtio 1.3, 5.2.6).
const MAX_DISK_ID: usize = 20;
/// Devices besides disks, shares and balloon: vsock and rng.
const OTHER_DEVICES: usize = 2;

pub use shares::ShareError;

const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELF_CLASS_64_LITTLE: [u8; 2] = [2, 1];
const ELF_MACHINE_X86_64: u16 = 62;
const ELF_HEADER: usize = 64;
const ELF_PROGRAM_HEADER: usize = 56;
const ELF_LOAD: u32 = 1;
const BZIMAGE_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The number of vCPUs.
    #[error("\"vcpus\" is {0}; a machine has 1 to {MAX_VCPUS}")]
    Vcpus(u8),
    /// Less memory than a guest needs.
    #[error("\"memory_mib\" is {0}; a machine needs at least {MIN_MEMORY_MIB}")]
    MemoryTooSmall(u64),
    /// More memory than the host has.
    #[error("\"memory_mib\" is {wanted}; the host has {host}")]
    MemoryTooLarge {
        /// What was asked for, in MiB.
        wanted: u64,
        /// What there is, in MiB.
        host: u64,
    },
    /// A file that the configuration names.
    #[error("cannot open the {what} {path}")]
    Open {
        /// What it is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kernel that is none.
    #[error("the kernel {path} {why}")]
    Kernel {
        /// Its path.
        path: PathBuf,
        /// What is wrong, and the way out.
        why: String,
    },
    /// The command line.
    #[error(
        "\"cmdline\" has a character that is not printable ASCII; a kernel's command line is words separated by spaces"
    )]
    Cmdline,
    /// A disk's serial number.
    #[error("the disk id \"{0}\" is not 1 to {MAX_DISK_ID} printable ASCII characters")]
    DiskId(String),
    /// More devices than there are interrupt lines.
    #[error("{count} disks and shares; such a machine has at most {max}")]
    TooManyDevices {
        /// How many.
        count: usize,
        /// How many there can be.
        max: usize,
    },
    /// A share.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// What this VMM cannot do yet.
    #[error("\"{0}\" is not possible with this VMM")]
    Unsupported(&'static str),
    /// The context id.
    #[error("the vsock \"cid\" is {0}; a guest's is 3 to 4294967294")]
    Cid(u32),
}

/// A configuration that a machine can be made from, and its opened files.
#[derive(Debug)]
pub struct Validated {
    /// The kernel.
    pub kernel: Kernel,
    /// Its path, for messages.
    pub kernel_path: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<Initrd>,
    /// The user's words for the kernel.
    pub cmdline: String,
    /// 1 to 8.
    pub vcpus: u8,
    /// In bytes.
    pub memory: usize,
    /// The disks; their files are opened by the device.
    pub disks: Vec<Disk>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// A memory balloon.
    pub balloon: bool,
    /// The file system devices.
    pub shares: Vec<Share>,
    /// The serial port.
    pub serial: Option<SerialOutput>,
    /// What kind of KVM.
    pub backend: Backend,
}

impl Validated {
    /// Checks `config` and opens its kernel and initial RAM disk.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: VmConfig) -> Result<Self, ConfigError> {
        if !(1..=MAX_VCPUS).contains(&config.vcpus) {
            return Err(ConfigError::Vcpus(config.vcpus));
        }
        let memory = memory_bytes(config.memory_mib, host_memory_mib())?;
        if !config.cmdline.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(ConfigError::Cmdline);
        }
        let count = config.disks.len() + config.shares.len();
        let max = layout::VIRTIO_MAX - OTHER_DEVICES - usize::from(config.balloon);
        if count > max {
            return Err(ConfigError::TooManyDevices { count, max });
        }
        for disk in &config.disks {
            let printable = disk.id.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            if !printable || !(1..=MAX_DISK_ID).contains(&disk.id.len()) {
                return Err(ConfigError::DiskId(disk.id.clone()));
            }
        }
        if let Some(vsock) = &config.vsock
            && !CIDS.contains(&vsock.cid)
        {
            return Err(ConfigError::Cid(vsock.cid));
        }
        shares::check(&config.shares)?;
        for (asked, field) in
            [(config.snapshot.is_some(), "snapshot"), (config.restore.is_some(), "restore")]
        {
            if asked {
                return Err(ConfigError::Unsupported(field));
            }
        }
        let kernel = open_kernel(&config.kernel)?;
        let initrd = config.initrd.as_deref().map(open_initrd).transpose()?;
        Ok(Self {
            kernel,
            kernel_path: config.kernel,
            initrd,
            cmdline: config.cmdline,
            vcpus: config.vcpus,
            memory,
            disks: config.disks,
            vsock: config.vsock,
            balloon: config.balloon,
            shares: config.shares,
            serial: config.serial,
            backend: config.backend,
        })
    }
}

fn memory_bytes(mib: u64, host: Option<u64>) -> Result<usize, ConfigError> {
    if mib < MIN_MEMORY_MIB {
        return Err(ConfigError::MemoryTooSmall(mib));
    }
    let host = host.unwrap_or(u64::MAX >> 20);
    let too_large = ConfigError::MemoryTooLarge { wanted: mib, host };
    if mib > host {
        return Err(too_large);
    }
    usize::try_from(mib << 20).map_err(|_| too_large)
}

/// The host's memory in MiB (proc(5), meminfo).
fn host_memory_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib >> 10)
}

fn open(what: &'static str, path: &Path) -> Result<(File, u64), ConfigError> {
    let wrong = |source| ConfigError::Open { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if !metadata.is_file() {
        return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    Ok((file, metadata.len()))
}

fn open_initrd(path: &Path) -> Result<Initrd, ConfigError> {
    let (file, length) = open("initial RAM disk", path)?;
    Ok(Initrd { file, length })
}

fn open_kernel(path: &Path) -> Result<Kernel, ConfigError> {
    let (mut file, length) = open("kernel", path)?;
    let refuse = |why: String| ConfigError::Kernel { path: path.to_owned(), why };
    let mut head = Vec::new();
    let (magic_at, magic) = BZIMAGE_MAGIC;
    (&mut file)
        .take((magic_at + magic.len()) as u64)
        .read_to_end(&mut head)
        .map_err(|source| ConfigError::Open { what: "kernel", path: path.to_owned(), source })?;
    if head.starts_with(ELF_MAGIC) {
        check_elf(&head, &file, length).map_err(refuse)?;
        return Ok(Kernel::Elf(file));
    }
    if head.get(magic_at..) == Some(magic) {
        return Ok(Kernel::BzImage(file));
    }
    Err(refuse("is neither an ELF vmlinux nor a bzImage; name the kernel's image".to_owned()))
}

/// Is it for this architecture, and are all its segments there?
fn check_elf(head: &[u8], file: &File, length: u64) -> Result<(), String> {
    let half =
        |at: usize| head.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let short = || format!("is truncated: it has only {length} bytes; get or build it again");
    if head.len() < ELF_HEADER {
        return Err(short());
    }
    if head.get(4..6) != Some(&ELF_CLASS_64_LITTLE) {
        return Err("is not a 64-bit little-endian ELF file; use an x86-64 vmlinux".to_owned());
    }
    let machine = half(18).unwrap_or(0);
    if machine != ELF_MACHINE_X86_64 {
        return Err(format!("is for ELF machine {machine}, not for x86-64 ({ELF_MACHINE_X86_64})"));
    }
    let table = quad(head, 32).unwrap_or(0);
    let mut header = [0; ELF_PROGRAM_HEADER];
    let mut loads = 0;
    for index in 0..u64::from(half(56).unwrap_or(0)) {
        let at = table.saturating_add(index * ELF_PROGRAM_HEADER as u64);
        file.read_exact_at(&mut header, at).map_err(|_| short())?;
        if header.first_chunk::<4>().copied().map(u32::from_le_bytes) != Some(ELF_LOAD) {
            continue;
        }
        loads += 1;
        let (offset, size) = (quad(&header, 8).unwrap_or(0), quad(&header, 32).unwrap_or(0));
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(short());
        }
    }
    if loads == 0 {
        return Err("has nothing to load; name the kernel's vmlinux".to_owned());
    }
    Ok(())
}

fn quad(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
#[path = "validated_tests.rs"]
mod tests;
