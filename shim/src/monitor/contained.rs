//! What the monitor knows of one container of its machine.

use std::time::Instant;

use bulkhead_protocol::{Failure, FailureKind};

use super::{ending::Ending, fault::Fault, message::State};

/// What a container does.
#[derive(Debug)]
pub(super) enum Phase {
    /// The agent has not said that it is ready.
    Booting,
    /// The agent makes it.
    Creating,
    /// It waits for its start.
    Created,
    /// Its program runs.
    Running,
    /// It has ended, and its machine ends with it.
    Ending(Ending),
    /// It has ended, and what it had of the machine is taken back.
    Leaving,
}

/// A container.
#[derive(Debug)]
pub(super) struct Contained {
    pub(super) phase: Phase,
    pub(super) frozen: bool,
    /// The memory limit has killed something.
    pub(super) oom_killed: bool,
    /// It was killed: its processors must run until it has ended.
    pub(super) doomed: Option<Instant>,
}

impl Contained {
    pub(super) fn new(phase: Phase) -> Self {
        Self { phase, frozen: false, oom_killed: false, doomed: None }
    }

    /// What others are told.
    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Booting | Phase::Creating => State::Creating,
            _ if self.frozen => State::Paused,
            Phase::Created => State::Created,
            // Until its output is out and its files are written, its pid and its exit code are still to be waited for.
            Phase::Running | Phase::Ending(_) | Phase::Leaving => State::Running,
        }
    }

    /// It waits for its start, or its program runs.
    pub(super) fn lives(&self) -> bool {
        matches!(self.phase, Phase::Created | Phase::Running)
    }

    /// Refuses what only a living container can do.
    pub(super) fn living(&self) -> Result<(), Failure> {
        match self.phase {
            Phase::Created | Phase::Running => Ok(()),
            Phase::Booting | Phase::Creating => Err(wrong("the container is still being created")),
            Phase::Ending(_) | Phase::Leaving => Err(wrong("container not running")),
        }
    }

    /// When it must have died after it was killed.
    ///
    /// # Errors
    /// It should have by now.
    pub(super) fn dies_by(&self, now: Instant) -> Result<Option<Instant>, Fault> {
        match self.doomed.filter(|_| self.lives()) {
            Some(at) if now >= at => Err(Fault::Unkillable),
            at => Ok(at),
        }
    }

    /// Nothing of it runs, and nobody waits for it.
    pub(super) fn rests(&self) -> bool {
        self.frozen && self.doomed.is_none()
    }
}

pub(super) fn wrong(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::State, message: message.into() }
}

pub(crate) fn system(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::System, message: message.into() }
}
