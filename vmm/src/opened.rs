//! Everything of the host that a machine is made of, opened: the last step before the jail. It makes no thread.

use std::{io, path::Path, sync::Arc};

use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    boot::Kernel,
    devices::{
        block::{BlockError, Files},
        fs::{Fs, FsError, Reopen},
        net::{Net, NetError},
        vsock::{Vsock, VsockError},
    },
    jail::{self, Contents, Jail, JailError},
    kvm::{self, Detected, Host, KvmError},
    resident::Gauge,
    serial::{SerialError, SerialPort},
    snapshot::{Identity, RestoreError, SaveError, Source, Target},
    validated::{Origin, Validated},
};

/// Why something could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A compressed kernel on a software KVM.
    #[error(
        "the kernel {0} is a bzImage, and this software KVM would interpret its decompressor for minutes; use the ELF vmlinux"
    )]
    Compressed(String),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// The socket device.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// A network card.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The serial console.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// The process's own memory.
    #[error("cannot read /proc/self/smaps")]
    Smaps(#[source] io::Error),
    /// The process's own descriptors.
    #[error("cannot open /proc/self/fd")]
    Descriptors(#[source] Errno),
    /// The jail.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// A share.
    #[error(transparent)]
    Share(#[from] FsError),
    /// The files that the machine is to be saved into.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The saved machine.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// What was opened.
pub struct Opened {
    /// KVM.
    pub host: Host,
    /// What kind it is.
    pub kind: Detected,
    /// The disks' files.
    pub disks: Vec<Files>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// The network cards with their taps.
    pub nics: Vec<Net>,
    /// The serial port and its interrupt.
    pub serial: Option<(SerialPort, EventFd)>,
    /// Where the process's memory is measured.
    pub gauge: Gauge,
    /// The saved machine to go on from.
    pub source: Option<Source>,
    /// The files to save the machine into.
    pub target: Option<Target>,
    reopen: Option<Arc<Reopen>>,
}

impl Opened {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: &Validated) -> Result<Self, OpenError> {
        let host = Host::open()?;
        let source = match &config.origin {
            Origin::Boot { .. } => None,
            Origin::Saved(files) => {
                Some(Source::open(files, &Identity::here(config.shape.clone()), config.backend)?)
            }
        };
        let kind = match &source {
            Some(source) => source.saved.kind.into(),
            None => kvm::detect(&host, config.backend)?,
        };
        if kind == Detected::Software
            && let Origin::Boot { kernel: Kernel::BzImage(_), .. } = config.origin
        {
            return Err(OpenError::Compressed(config.kernel_path.display().to_string()));
        }
        let disks = config.disks.iter().map(Files::open).collect::<Result<_, _>>()?;
        let vsock = config.vsock.as_ref().map(Vsock::bind).transpose()?;
        let nics = config.nics.iter().map(Net::open).collect::<Result<_, _>>()?;
        let serial = config.serial.as_ref().map(SerialPort::new).transpose()?;
        let gauge = Gauge::open().map_err(OpenError::Smaps)?;
        let reopen = match config.shares.is_empty() {
            true => None,
            false => Some(Arc::new(Reopen::open().map_err(OpenError::Descriptors)?)),
        };
        // The last thing: an error above leaves no files behind.
        let target = match &config.snapshot {
            None => None,
            Some(files) => Some(Target::create(files, Identity::here(config.shape.clone()))?),
        };
        Ok(Self { host, kind, disks, vsock, nics, serial, gauge, source, target, reopen })
    }

    /// Shuts the process in, with the directory of the control socket if there is one.
    ///
    /// # Errors
    /// [`OpenError::Jail`].
    pub fn enter_jail(
        &mut self,
        config: &Validated,
        control: Option<&Path>,
    ) -> Result<Jail, OpenError> {
        let contents = Contents {
            shares: &config.shares,
            exchange: config.exchange,
            vsock: config.vsock.as_ref().map(|vsock| Vsock::directory(&vsock.path)),
            control,
        };
        let mut jail = jail::enter(&contents)?;
        if let (Some(vsock), Some(directory)) = (&mut self.vsock, jail.vsock.take()) {
            vsock.moved_to(directory);
        }
        Ok(jail)
    }

    /// The devices of the shares whose directories `jail` holds. Starts their threads.
    ///
    /// # Errors
    /// [`OpenError::Share`].
    pub fn serve_shares(&self, config: &Validated, jail: Jail) -> Result<Vec<Fs>, OpenError> {
        let Some(reopen) = &self.reopen else { return Ok(Vec::new()) };
        let files = jail.files;
        let pairs = config.shares.iter().zip(jail.shares);
        pairs.map(|(share, root)| Ok(Fs::new(share, root, reopen.clone(), files)?)).collect()
    }
}
