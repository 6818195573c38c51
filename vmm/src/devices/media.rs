//! Media that come into a running machine's slots and go again, with their open files.

use std::os::fd::OwnedFd;

use crate::api::{Medium, Slot};

/// A change of what is in a slot.
#[derive(Debug)]
pub enum Change {
    /// A medium comes, with the descriptors that it needs.
    Insert(Medium, Vec<OwnedFd>),
    /// What is there goes.
    Eject(Slot),
}

impl Change {
    /// Where.
    #[must_use]
    pub fn slot(&self) -> Slot {
        match self {
            Change::Insert(medium, _) => medium.slot(),
            Change::Eject(slot) => slot.clone(),
        }
    }
}

/// Why a medium cannot come or go.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No such slot.
    #[error("the machine has no {0}")]
    Unknown(Slot),
    /// Something is there.
    #[error("{0} is taken; take out what is there first")]
    Taken(Slot),
    /// Nothing is there.
    #[error("{0} has no medium that could be taken out")]
    Empty(Slot),
    /// It cannot be used.
    #[error("{slot}: {why}")]
    Unfit {
        /// Where it was to go.
        slot: Slot,
        /// Why not.
        why: String,
    },
}
