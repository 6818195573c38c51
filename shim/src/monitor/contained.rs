//! What the monitor knows of one container of its machine.

use std::time::{Duration, Instant};

use bulkhead_protocol::{Failure, FailureKind};

use super::{ending::Ending, fault::Fault, message::State};

/// How long a guest that has not heard of a kill may say nothing at all.
const HEARS: Duration = Duration::from_secs(20);
/// How long it may take from the kill to the container's end.
const DIES: Duration = Duration::from_secs(60);

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
    doomed: Option<Doom>,
}

/// A kill that the container is to die of. Another one buys it no time.
#[derive(Debug, Clone, Copy)]
struct Doom {
    since: Instant,
    /// The guest has said that it was killed.
    heard: bool,
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

    /// The guest is asked to kill it.
    pub(super) fn doom(&mut self, now: Instant) {
        self.doomed.get_or_insert(Doom { since: now, heard: false });
    }

    /// What the guest says of that.
    pub(super) fn doom_answered(&mut self, killed: bool) {
        match &mut self.doomed {
            Some(doom) if killed => doom.heard = true,
            Some(doom) if !doom.heard => self.doomed = None,
            _ => {}
        }
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.is_some()
    }

    /// When it must have died after it was killed, or the guest must have said something after its `last_word`.
    ///
    /// # Errors
    /// It should have by now.
    pub(super) fn dies_by(
        &self,
        now: Instant,
        last_word: Instant,
    ) -> Result<Option<Instant>, Fault> {
        let by = |doom: Doom| match doom.heard {
            true => doom.since + DIES,
            false => (doom.since.max(last_word) + HEARS).min(doom.since + DIES),
        };
        match self.doomed.filter(|_| self.lives()).map(by) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_waited_for_once() {
        let now = Instant::now();
        let mut container = Contained::new(Phase::Running);
        let by = |container: &Contained, at: Instant| container.dies_by(at, now);
        assert!(matches!(by(&container, now), Ok(None)) && !container.is_doomed());
        container.doom(now);
        // Others that follow change nothing.
        container.doom(now + HEARS / 2);
        assert!(matches!(by(&container, now), Ok(Some(at)) if at == now + HEARS));
        assert!(matches!(by(&container, now + HEARS), Err(Fault::Unkillable)));
        container.doom_answered(true);
        assert!(matches!(by(&container, now + HEARS), Ok(Some(at)) if at == now + DIES));
        // It is dead, so that a second kill finds nothing; its end is still to be told.
        container.doom_answered(false);
        assert!(matches!(by(&container, now + DIES), Err(Fault::Unkillable)));
        container.phase = Phase::Leaving;
        assert!(matches!(by(&container, now + DIES), Ok(None)));
    }

    #[test]
    fn a_guest_that_is_busy_has_longer_but_not_for_ever() {
        let now = Instant::now();
        let mut container = Contained::new(Phase::Running);
        container.doom(now);
        let by = |word: Instant| container.dies_by(now, word);
        assert!(matches!(by(now - HEARS), Ok(Some(at)) if at == now + HEARS));
        assert!(matches!(by(now + HEARS), Ok(Some(at)) if at == now + 2 * HEARS));
        assert!(matches!(by(now + DIES), Ok(Some(at)) if at == now + DIES));
    }

    #[test]
    fn a_kill_that_the_guest_refuses_is_none() {
        let now = Instant::now();
        let mut container = Contained::new(Phase::Created);
        container.frozen = true;
        container.doom(now);
        assert!(!container.rests());
        container.doom_answered(false);
        assert!(matches!(container.dies_by(now + DIES, now), Ok(None)) && container.rests());
    }
}
