//! The machines that were promised memory, in a file. A process that is killed leaves at worst an entry, which the next one
//! to look removes, as its process is gone.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, openat, renameat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{super::Identity, AdmissionError, host};

const FILE: &str = "admission.json";
const NEW: &str = "admission.json.new";
const LOCK: &str = "admission.lock";

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Whoever starts it.
    pub(super) monitor: Identity,
    /// What takes the memory, once it runs.
    pub(super) vmm: Option<Identity>,
    /// What it was promised, in bytes.
    pub(super) promise: u64,
    /// Until when that counts (`CLOCK_MONOTONIC`, nanoseconds); absent: as long as it lives.
    pub(super) until: Option<u64>,
    /// The control group with the limit that it counts against, too.
    pub(super) group: Option<String>,
}

impl Entry {
    /// Whether the promise still counts.
    pub(super) fn counts(&self, now: u64) -> bool {
        self.until.is_none_or(|until| now < until)
            && self.monitor.is_alive()
            && self.vmm.is_none_or(Identity::is_alive)
    }

    /// What it has yet to take, in bytes.
    pub(super) fn owed(&self) -> u64 {
        let taken = self.vmm.map_or(0, |vmm| host::taken(vmm.pid));
        self.promise.saturating_sub(taken)
    }
}

/// Where the ledger is. It is reached after this process has got another root, too.
#[derive(Debug)]
pub(super) struct Ledger {
    directory: OwnedFd,
    path: PathBuf,
}

/// The ledger, nobody else's for as long as this lives.
#[derive(Debug)]
pub(super) struct Open<'a> {
    pub(super) entries: Vec<Entry>,
    ledger: &'a Ledger,
    _lock: File,
}

impl Ledger {
    /// `path`: its directory, which is made if it is not there.
    pub(super) fn new(path: &Path) -> Result<Self, AdmissionError> {
        let failed = |what| {
            let path = path.display().to_string();
            move |source| AdmissionError::Io { what, path, source }
        };
        let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make.map_err(failed("make"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty());
        let directory = directory.map_err(|errno| failed("open")(errno.into()))?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// Waits until nobody else has it, which is soon, and reads it. One that is not there, or that cannot be understood, is empty.
    pub(super) fn open(&self) -> Result<Open<'_>, AdmissionError> {
        let lock = self.file(LOCK, OFlags::WRONLY | OFlags::CREATE);
        let lock = lock.map_err(self.failed("open", LOCK))?;
        while let Err(errno) = flock(&lock, FlockOperation::LockExclusive) {
            if errno != Errno::INTR {
                return Err(self.failed("lock", LOCK)(errno));
            }
        }
        let entries = match self.file(FILE, OFlags::RDONLY) {
            Ok(mut file) => {
                let mut text = Vec::new();
                let read = file.read_to_end(&mut text);
                read.map_err(|error| self.failed("read", FILE)(errno(&error)))?;
                serde_json::from_slice(&text).unwrap_or_default()
            }
            Err(Errno::NOENT) => Vec::new(),
            Err(errno) => return Err(self.failed("open", FILE)(errno)),
        };
        Ok(Open { entries, ledger: self, _lock: lock })
    }

    fn file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let mode = Mode::from_raw_mode(0o600);
        openat(&self.directory, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode)
            .map(File::from)
    }

    fn failed(&self, what: &'static str, name: &str) -> impl FnOnce(Errno) -> AdmissionError {
        let path = self.path.join(name).display().to_string();
        move |errno| AdmissionError::Io { what, path, source: errno.into() }
    }
}

impl Open<'_> {
    /// Writes the entries and lets the others have the ledger.
    pub(super) fn write(self) -> Result<(), AdmissionError> {
        let Self { entries, ledger, _lock } = self;
        let write = || {
            let text = serde_json::to_vec(&entries).map_err(io::Error::from)?;
            let mut file = ledger.file(NEW, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
            file.write_all(&text)?;
            io::Result::Ok(renameat(&ledger.directory, NEW, &ledger.directory, FILE)?)
        };
        write().map_err(|error| ledger.failed("write", FILE)(errno(&error)))
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
