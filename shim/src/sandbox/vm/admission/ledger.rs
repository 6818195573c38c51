//! The machines that were promised memory, in a file. A process that is killed leaves at worst an entry, which the next one
//! to look removes, as its process is gone.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
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

/// Where the ledger is.
#[derive(Debug)]
pub(super) struct Ledger {
    directory: PathBuf,
}

/// The ledger, nobody else's for as long as this lives.
#[derive(Debug)]
pub(super) struct Open<'a> {
    pub(super) entries: Vec<Entry>,
    ledger: &'a Ledger,
    _lock: File,
}

impl Ledger {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Waits until nobody else has it, which is soon, and reads it. One that is not there, or that cannot be understood, is empty.
    pub(super) fn open(&self) -> Result<Open<'_>, AdmissionError> {
        let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        make.map_err(self.failed("make", ""))?;
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(self.directory.join(LOCK)).map_err(self.failed("open", LOCK))?;
        while let Err(errno) = flock(&lock, FlockOperation::LockExclusive) {
            if errno != rustix::io::Errno::INTR {
                return Err(self.failed("lock", LOCK)(errno.into()));
            }
        }
        let entries = match fs::read(self.directory.join(FILE)) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(self.failed("read", FILE)(error)),
        };
        Ok(Open { entries, ledger: self, _lock: lock })
    }

    fn failed(&self, what: &'static str, name: &str) -> impl FnOnce(io::Error) -> AdmissionError {
        let path = self.directory.join(name).display().to_string();
        move |source| AdmissionError::Io { what, path, source }
    }
}

impl Open<'_> {
    /// Writes the entries and lets the others have the ledger.
    pub(super) fn write(self) -> Result<(), AdmissionError> {
        let new = self.ledger.directory.join(NEW);
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = serde_json::to_vec(&self.entries)
            .map_err(io::Error::from)
            .and_then(|text| options.open(&new)?.write_all(&text))
            .and_then(|()| fs::rename(&new, self.ledger.directory.join(FILE)));
        written.map_err(self.ledger.failed("write", FILE))
    }
}
