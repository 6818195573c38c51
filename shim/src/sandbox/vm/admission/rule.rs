//! The rule: how much a new machine needs, how much must stay free, and the words of a refusal.

use serde::{Deserialize, Serialize};

use crate::size::MemorySize;

/// What a machine takes on the host beside its memory: the VMM and the monitor, in bytes.
const BESIDE: u64 = 16 << 20;
/// The reserve is this part of the memory in percent, on the host at least [`LEAST_RESERVE`].
const RESERVE_PERCENT: u64 = 3;
const LEAST_RESERVE: u64 = 256 << 20;
/// What a machine with a container takes until its program runs, and some for the program.
const START: MemorySize = MemorySize(48 << 20);
/// How long a machine may take to take what it needs at its start, in nanoseconds. Then it shows in the host's figures.
const LEASE: u64 = 30_000_000_000;

/// What must be there before a machine is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// What it needs at its start; all machines together may be promised more memory than there is.
    #[default]
    Start,
    /// All of its memory, and what the others were promised and have not taken.
    Whole,
    /// Nothing.
    Off,
}

impl Mode {
    /// The mode of this name: `start`, `whole` or `off`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        <Self as clap::ValueEnum>::from_str(name, false).ok()
    }
}

/// When a microVM is refused for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// What must be there.
    pub mode: Mode,
    /// What stays available on the host; absent: 3 % of its memory, and at least 256 MiB.
    pub reserve: Option<MemorySize>,
    /// What a machine needs at its start.
    pub start: MemorySize,
}

impl Default for Rule {
    fn default() -> Self {
        Self { mode: Mode::default(), reserve: None, start: START }
    }
}

/// Memory that runs out for itself, in bytes.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// The host's.
    Host { available: u64, total: u64 },
    /// That of a control group with a limit.
    Group { path: &'a str, left: u64, limit: u64 },
}

/// There is too little.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too little memory for another microVM: {place}, {owed} MiB of them for machines that have yet to take it; \
     this one may need {need} MiB {when}, and {reserve} MiB must stay free; end something, or change `mode`, `reserve` or \
     `start` of [admission] in /etc/bulkhead/config.toml"
)]
pub(crate) struct Refusal {
    place: String,
    owed: u64,
    need: u64,
    when: &'static str,
    reserve: u64,
}

impl Rule {
    /// What a machine of so much memory is promised, in bytes; `None` when nobody asks.
    pub(super) fn promise(&self, memory: u64) -> Option<u64> {
        let whole = memory.saturating_add(BESIDE);
        match self.mode {
            Mode::Off => None,
            Mode::Start => Some(self.start.0.min(whole)),
            Mode::Whole => Some(self.start.0.max(whole)),
        }
    }

    /// How long a promise counts, in nanoseconds; `None`: as long as the machine lives.
    pub(super) fn lease(&self) -> Option<u64> {
        (self.mode == Mode::Start).then_some(LEASE)
    }

    /// Whether `place` has room for a promise, beside what is `owed` to others, in bytes.
    pub(super) fn check(&self, place: &Place<'_>, promise: u64, owed: u64) -> Result<(), Refusal> {
        let (left, reserve) = match *place {
            Place::Host { available, total } => {
                let usual = (total / 100 * RESERVE_PERCENT).max(LEAST_RESERVE);
                (available, self.reserve.map_or(usual, |reserve| reserve.0))
            }
            Place::Group { left, limit, .. } => (left, limit / 100 * RESERVE_PERCENT),
        };
        if promise.saturating_add(reserve).saturating_add(owed) <= left {
            return Ok(());
        }
        Err(Refusal {
            place: place.to_string(),
            owed: owed >> 20,
            need: promise >> 20,
            when: if self.mode == Mode::Whole { "in all" } else { "at its start" },
            reserve: reserve >> 20,
        })
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Host { available, .. } => {
                write!(f, "the host has {} MiB available", available >> 20)
            }
            Place::Group { path, left, limit } => {
                let (left, limit) = (left >> 20, limit >> 20);
                write!(f, "the control group {path} has {left} MiB left of its {limit} MiB")
            }
        }
    }
}
