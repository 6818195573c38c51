//! The machines that were promised memory: a directory with a file for each, named for the processes that it is about, so that
//! nothing is ever written anew. A process that is killed leaves at worst its file, which the next one to look removes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{super::Identity, AdmissionError, host};

const LOCK: &str = "lock";
/// The longest file of an entry: a path and some numbers.
const MOST: u64 = 16 << 10;

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whoever starts it.
    pub(super) monitor: Identity,
    /// What takes the memory, once it runs.
    pub(super) vmm: Option<Identity>,
    pub(super) promise: Promise,
}

/// What a machine was promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Promise {
    /// Memory, in bytes.
    pub(super) bytes: u64,
    /// Until when it counts (`CLOCK_MONOTONIC`, nanoseconds); absent: as long as the machine lives.
    pub(super) until: Option<u64>,
    /// The control group with the limit that it counts against, too.
    pub(super) group: Option<String>,
}

impl Entry {
    /// Whether the promise still counts.
    fn counts(&self, now: u64) -> bool {
        self.promise.until.is_none_or(|until| now < until)
            && self.monitor.is_alive()
            && self.vmm.is_none_or(Identity::is_alive)
    }

    /// What it has yet to take, in bytes.
    pub(super) fn owed(&self) -> u64 {
        let taken = self.vmm.map_or(0, |vmm| host::taken(vmm.pid));
        self.promise.bytes.saturating_sub(taken)
    }

    /// The name of its file: `MONITOR`, or `MONITOR+VMM`.
    fn name(&self) -> String {
        match self.vmm {
            Some(vmm) => format!("{}+{vmm}", self.monitor),
            None => self.monitor.to_string(),
        }
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
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty());
        let directory = directory.map_err(|errno| failed("open")(errno.into()))?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// Waits until nobody else has it, which is soon.
    pub(super) fn open(&self) -> Result<Open<'_>, AdmissionError> {
        let lock = self.file(LOCK, OFlags::WRONLY | OFlags::CREATE);
        let lock = lock.map_err(self.failed("open", LOCK))?;
        while let Err(errno) = flock(&lock, FlockOperation::LockExclusive) {
            if errno != Errno::INTR {
                return Err(self.failed("lock", LOCK)(errno));
            }
        }
        Ok(Open { ledger: self, _lock: lock })
    }

    fn file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let (flags, mode) =
            (flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from_raw_mode(0o600));
        openat(&self.directory, name, flags, mode).map(File::from)
    }

    /// The entry with the file of this name.
    fn entry(&self, name: &str) -> Option<Entry> {
        let (monitor, vmm) = match name.split_once('+') {
            Some((monitor, vmm)) => (monitor, Some(vmm.parse().ok()?)),
            None => (name, None),
        };
        let monitor = monitor.parse().ok()?;
        let mut text = Vec::new();
        self.file(name, OFlags::RDONLY).ok()?.take(MOST).read_to_end(&mut text).ok()?;
        Some(Entry { monitor, vmm, promise: serde_json::from_slice(&text).ok()? })
    }

    fn failed(&self, what: &'static str, name: &str) -> impl FnOnce(Errno) -> AdmissionError {
        let path = self.path.join(name).display().to_string();
        move |errno| AdmissionError::Io { what, path, source: errno.into() }
    }
}

impl Open<'_> {
    /// The entries that count at this time. Files of others, and what cannot be understood, are removed.
    pub(super) fn entries(&self, now: u64) -> Result<Vec<Entry>, AdmissionError> {
        let list = || {
            let mut entries = Vec::new();
            for item in Dir::read_from(&self.ledger.directory)? {
                let item = item?;
                let Ok(name) = item.file_name().to_str() else { continue };
                if [".", "..", LOCK].contains(&name) {
                    continue;
                }
                match self.ledger.entry(name).filter(|entry| entry.counts(now)) {
                    Some(entry) => entries.push(entry),
                    None => unlinkat(&self.ledger.directory, name, AtFlags::empty())?,
                }
            }
            Ok(entries)
        };
        list().map_err(self.ledger.failed("read", ""))
    }

    /// Adds an entry.
    pub(super) fn add(&self, entry: &Entry) -> Result<(), AdmissionError> {
        let name = entry.name();
        let write = || {
            let text = serde_json::to_vec(&entry.promise)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
            self.ledger.file(&name, flags)?.write_all(&text)
        };
        write().map_err(|error: io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            self.ledger.failed("write", &name)(errno)
        })
    }

    /// Says what takes the memory of an entry. It may be gone, when another VMM had it that has ended.
    pub(super) fn taken_by(&self, entry: &mut Entry, vmm: Identity) -> Result<(), AdmissionError> {
        let before = entry.name();
        entry.vmm = Some(vmm);
        let (directory, name) = (&self.ledger.directory, entry.name());
        match renameat(directory, &before, directory, &name) {
            Err(Errno::NOENT) => self.add(entry),
            renamed => renamed.map_err(self.ledger.failed("make", &name)),
        }
    }

    /// Removes an entry. It may be gone already.
    pub(super) fn remove(&self, entry: &Entry) -> Result<(), AdmissionError> {
        let name = entry.name();
        match unlinkat(&self.ledger.directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.ledger.failed("remove", &name)(errno)),
        }
    }
}
