//! Whether there is memory for one more microVM. The monitor asks before it starts a VMM; when the answer is no, nothing was
//! started, and what runs already is untouched.
//!
//! The host's available memory and the memory left to the control group are looked at. A machine that is just starting has not
//! taken yet what it will, so each is noted in a ledger with what it was promised, and what it has not taken counts as
//! taken. The ledger is read and written under a lock: of many that ask at once each sees those before it.

mod host;
mod ledger;
mod rule;

use std::{io, path::PathBuf};

use bulkhead_container::{Cgroups, Headroom};

pub use self::rule::{Mode, Rule};
use self::{
    host::Memory,
    ledger::{Entry, Ledger},
    rule::{Place, Refusal},
};
use super::Identity;

/// Why a machine may not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    /// There is too little memory.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be found out.
    #[error("cannot {what} {path}, to see whether there is memory for a microVM: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

/// The administrator's rule and the ledger of all who share it.
#[derive(Debug)]
pub(crate) struct Admission {
    rule: Rule,
    /// The directory of the ledger.
    directory: PathBuf,
}

/// A machine's place in the ledger. It ends with this process at the latest.
#[derive(Debug)]
#[must_use]
pub(crate) struct Admitted(Option<Noted>);

#[derive(Debug)]
struct Noted {
    ledger: Ledger,
    monitor: Identity,
    /// The promise is over when the machine has started.
    only_starts: bool,
}

impl Admission {
    /// `directory`: where the ledger is, the same for all.
    pub(crate) fn new(rule: Rule, directory: PathBuf) -> Self {
        Self { rule, directory }
    }

    /// Asks for a machine of so much memory that this process is going to start.
    pub(crate) fn admit(&self, memory_mib: u64) -> Result<Admitted, AdmissionError> {
        let Some(promise) = self.rule.promise(memory_mib << 20) else { return Ok(Admitted(None)) };
        // Where it cannot be told, the host's memory alone counts.
        let group = Cgroups::host().ok().flatten().and_then(|groups| groups.memory_headroom());
        self.note(Identity::own(), promise, Memory::of_host, group)
    }

    /// Notes the promise in the ledger, if there is room for it. `host` is asked when nobody else notes anything.
    fn note(
        &self,
        monitor: Identity,
        promise: u64,
        host: impl FnOnce() -> Result<Memory, AdmissionError>,
        group: Option<Headroom>,
    ) -> Result<Admitted, AdmissionError> {
        let ledger = Ledger::new(&self.directory)?;
        let mut open = ledger.open()?;
        let Memory { available, total } = host()?;
        let now = crate::timeline::now();
        open.entries.retain(|entry| entry.counts(now));
        let owed: Vec<u64> = open.entries.iter().map(Entry::owed).collect();
        self.rule.check(&Place::Host { available, total }, promise, owed.iter().sum())?;
        if let Some(Headroom { path, limit, left }) = &group {
            let here = |entry: &Entry| entry.group.as_ref() == Some(path);
            let owed = open.entries.iter().zip(owed).filter(|(entry, _)| here(entry));
            let place = Place::Group { path, left: *left, limit: *limit };
            self.rule.check(&place, promise, owed.map(|(_, owed)| owed).sum())?;
        }
        open.entries.push(Entry {
            monitor,
            vmm: None,
            promise,
            until: self.rule.lease().map(|lease| now.saturating_add(lease)),
            group: group.map(|group| group.path),
        });
        open.write()?;
        let only_starts = self.rule.lease().is_some();
        Ok(Admitted(Some(Noted { ledger, monitor, only_starts })))
    }
}

impl Admitted {
    /// Of a machine that nobody asked about.
    pub(crate) fn unasked() -> Self {
        Self(None)
    }

    /// Says which process takes the memory, so that what it has taken is not counted twice.
    pub(crate) fn taken_by(&self, vmm: Option<Identity>) -> Result<(), AdmissionError> {
        let Some(noted) = &self.0 else { return Ok(()) };
        // A start is short.
        if noted.only_starts { Ok(()) } else { noted.change(|entry| entry.vmm = vmm) }
    }

    /// The machine has started: what it took shows in the host's figures.
    pub(crate) fn started(&mut self) -> Result<(), AdmissionError> {
        match self.0.take_if(|noted| noted.only_starts) {
            Some(noted) => noted.change(|entry| entry.until = Some(0)),
            None => Ok(()),
        }
    }
}

impl Noted {
    /// Changes the machine's entry, if it is there still, and takes those away that do not count any more.
    fn change(&self, change: impl FnOnce(&mut Entry)) -> Result<(), AdmissionError> {
        let mut open = self.ledger.open()?;
        if let Some(entry) = open.entries.iter_mut().find(|entry| entry.monitor == self.monitor) {
            change(entry);
        }
        let now = crate::timeline::now();
        open.entries.retain(|entry| entry.until.is_none_or(|until| now < until));
        open.write()
    }
}

#[cfg(test)]
mod tests;
