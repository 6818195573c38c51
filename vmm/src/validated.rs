//! Checks a configuration before anything of KVM is made, and opens the files that it names. Everything behind this takes only
//! [`Validated`].

mod kernel;
mod nics;
mod shares;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use self::kernel::{open_initrd, open_kernel};
use crate::{
    api::{Backend, Disk, Nic, SerialOutput, Share, SnapshotFiles, VmConfig, Vsock},
    arch::current::layout,
    boot::{Initrd, Kernel},
    snapshot::{FileIdentity, Shape},
};

/// The fewest MiB that a Linux guest with its root file system starts in.
const MIN_MEMORY_MIB: u64 = 64;
const MAX_VCPUS: u8 = 8;
/// Context ids 0 to 2 and the last have meanings of their own (vsock(7)).
const CIDS: std::ops::Range<u32> = 3..u32::MAX;
/// A disk's serial number (virtio 1.3, 5.2.6).
const MAX_DISK_ID: usize = 20;
/// Devices besides disks, shares, network cards and balloon: vsock and rng.
const OTHER_DEVICES: usize = 2;

pub use nics::NicError;
pub use shares::ShareError;
pub(crate) use shares::{MAX_NAME, is_name};

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
    #[error("{count} disks, shares and nics; such a machine has at most {max}")]
    TooManyDevices {
        /// How many.
        count: usize,
        /// How many there can be.
        max: usize,
    },
    /// A share.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// A network card.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// A machine that is to be saved and goes on from another.
    #[error(
        "\"snapshot\" and \"restore\" exclude each other: only a machine that was booted is saved"
    )]
    SaveAgain,
    /// The context id.
    #[error("the vsock \"cid\" is {0}; a guest's is 3 to 4294967294")]
    Cid(u32),
}

/// How a machine begins.
#[derive(Debug)]
pub enum Origin {
    /// With its kernel's first instruction.
    Boot {
        /// The kernel.
        kernel: Kernel,
        /// The initial RAM disk.
        initrd: Option<Initrd>,
    },
    /// Where another one was saved.
    Saved(SnapshotFiles),
}

/// A configuration that a machine can be made from, and its opened files.
#[derive(Debug)]
pub struct Validated {
    /// How it begins.
    pub origin: Origin,
    /// The kernel's path, for messages.
    pub kernel_path: PathBuf,
    /// What it is, whatever media and files it is given.
    pub shape: Shape,
    /// In bytes.
    pub memory: usize,
    /// The files that it is to be saved into.
    pub snapshot: Option<SnapshotFiles>,
    /// The disks; their files are opened by the device.
    pub disks: Vec<Disk>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// A memory balloon.
    pub balloon: bool,
    /// Media may come and go.
    pub exchange: bool,
    /// The file system devices.
    pub shares: Vec<Share>,
    /// The network cards.
    pub nics: Vec<Nic>,
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
        // That of a saved machine was possible, and must be the same.
        let host = if config.restore.is_some() { None } else { host_memory_mib() };
        let memory = memory_bytes(config.memory_mib, host)?;
        if !config.cmdline.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(ConfigError::Cmdline);
        }
        let count = config.disks.len() + config.shares.len() + config.nics.len();
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
        nics::check(&config.nics)?;
        if config.snapshot.is_some() && config.restore.is_some() {
            return Err(ConfigError::SaveAgain);
        }
        let devices = devices(&config);
        let initrd = config.initrd.as_deref();
        let (origin, kernel, initrd) = match config.restore {
            None => {
                let (kernel, kernel_file) = open_kernel(&config.kernel)?;
                let initrd = initrd.map(open_initrd).transpose()?;
                let (initrd, initrd_file) = initrd.unzip();
                (Origin::Boot { kernel, initrd }, kernel_file, initrd_file)
            }
            Some(files) => {
                let initrd = initrd.map(|path| identity("initial RAM disk", path)).transpose()?;
                (Origin::Saved(files), identity("kernel", &config.kernel)?, initrd)
            }
        };
        let cmdline = config.cmdline;
        let (vcpus, bytes) = (config.vcpus, memory as u64);
        Ok(Self {
            origin,
            kernel_path: config.kernel,
            shape: Shape { kernel, initrd, cmdline, vcpus, memory: bytes, devices },
            memory,
            snapshot: config.snapshot,
            disks: config.disks,
            vsock: config.vsock,
            balloon: config.balloon,
            exchange: config.exchange,
            shares: config.shares,
            nics: config.nics,
            serial: config.serial,
            backend: config.backend,
        })
    }
}

/// The devices in the order in which the machine has them, without their media.
fn devices(config: &VmConfig) -> Vec<String> {
    let disk = |disk: &Disk| {
        let access = if disk.read_only { "read-only" } else { "writable" };
        format!("{access} disk {:?}", disk.id)
    };
    let serial = config.serial.iter().map(|_| "serial port".to_owned());
    let vsock = config.vsock.iter().map(|vsock| format!("socket device {}", vsock.cid));
    let balloon = config.balloon.then(|| "balloon".to_owned());
    let shares = config.shares.iter().map(|share| format!("share {:?}", share.tag));
    // Its address, its MTU and its tap are a clone's own.
    let nics = config.nics.iter().map(|_| "network card".to_owned());
    let disks = config.disks.iter().map(disk);
    serial.chain(disks).chain(vsock).chain(balloon).chain(shares).chain(nics).collect()
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

fn open(what: &'static str, path: &Path) -> Result<(File, FileIdentity), ConfigError> {
    let wrong = |source| ConfigError::Open { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if !metadata.is_file() {
        return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    Ok((file, FileIdentity::of(&metadata)))
}

/// Which file it is, without opening it.
fn identity(what: &'static str, path: &Path) -> Result<FileIdentity, ConfigError> {
    let wrong = |source| ConfigError::Open { what, path: path.to_owned(), source };
    fs::metadata(path).map(|metadata| FileIdentity::of(&metadata)).map_err(wrong)
}

#[cfg(test)]
#[path = "validated_tests.rs"]
mod tests;
