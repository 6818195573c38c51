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
    ledger::{Entry, Ledger, Promise},
    rule::{Place, Refusal},
};
use super::Identity;
use crate::settings::Settings;

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

/// A machine's place in the ledger, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Admitted(Option<Noted>);

#[derive(Debug)]
struct Noted {
    ledger: Ledger,
    entry: Entry,
}

impl Admission {
    /// The rule in force, and the ledger of those who have the same state directory.
    pub(crate) fn of(settings: &Settings) -> Self {
        Self { rule: settings.admission, directory: settings.run.join("admission") }
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
        bytes: u64,
        host: impl FnOnce() -> Result<Memory, AdmissionError>,
        group: Option<Headroom>,
    ) -> Result<Admitted, AdmissionError> {
        let ledger = Ledger::new(&self.directory)?;
        let open = ledger.open()?;
        let Memory { available, total } = host()?;
        let now = crate::timeline::now();
        let entries = open.entries(now)?;
        let owed: Vec<u64> = entries.iter().map(Entry::owed).collect();
        self.rule.check(&Place::Host { available, total }, bytes, owed.iter().sum())?;
        if let Some(Headroom { path, limit, left }) = &group {
            let here = |entry: &Entry| entry.promise.group.as_ref() == Some(path);
            let owed = entries.iter().zip(owed).filter(|(entry, _)| here(entry));
            let place = Place::Group { path, left: *left, limit: *limit };
            self.rule.check(&place, bytes, owed.map(|(_, owed)| owed).sum())?;
        }
        let until = self.rule.lease().map(|lease| now.saturating_add(lease));
        let promise = Promise { bytes, until, group: group.map(|group| group.path) };
        let entry = Entry { monitor, vmm: None, promise };
        open.add(&entry)?;
        drop(open);
        Ok(Admitted(Some(Noted { ledger, entry })))
    }
}

impl Admitted {
    /// Of a machine that nobody asked about.
    pub(crate) fn unasked() -> Self {
        Self(None)
    }

    /// Says which process takes the memory, so that what it has taken is not counted twice.
    pub(crate) fn taken_by(&mut self, vmm: Option<Identity>) -> Result<(), AdmissionError> {
        match (&mut self.0, vmm) {
            // A start is short.
            (Some(Noted { ledger, entry }), Some(vmm)) if entry.promise.until.is_none() => {
                ledger.open()?.taken_by(entry, vmm)
            }
            _ => Ok(()),
        }
    }

    /// The machine has started: what it took shows in the host's figures.
    pub(crate) fn started(&mut self) {
        self.0.take_if(|noted| noted.entry.promise.until.is_some());
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        // What stays is removed by the next one to look.
        let _ = self.ledger.open().and_then(|open| open.remove(&self.entry));
    }
}

#[cfg(test)]
mod tests;
