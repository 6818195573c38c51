//! The end of a container: its last output, its file systems, its machine.

use std::time::{Duration, Instant};

use bulkhead_protocol::{Call, ExitStatus};

use super::{
    core::{Monitor, Owed, Phase},
    fault::Fault,
};

/// How long the guest may send nothing of what the program wrote.
const DRAIN: Duration = Duration::from_secs(30);
/// How often it is looked at meanwhile; the usual end of a stream is told at once.
const LOOK: Duration = Duration::from_millis(200);
/// How long the guest may take to write its file systems.
const SYNC: Duration = Duration::from_secs(30);

/// How far an end has come.
#[derive(Debug)]
pub(super) struct Ending {
    status: ExitStatus,
    written: [u64; 2],
    stage: Stage,
    next: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// What the program wrote goes on to the caller's files.
    Draining,
    /// The guest writes its file systems and powers itself off.
    Syncing,
    /// Nothing is left to do.
    Over,
}

impl Ending {
    pub(super) fn new(status: ExitStatus, written: [u64; 2]) -> Self {
        Self { status, written, stage: Stage::Draining, next: Instant::now() + LOOK }
    }

    pub(super) fn wake_at(&self) -> Instant {
        self.next
    }

    /// There is no guest any more that could write something.
    pub(super) fn machine_ended(&mut self) {
        if self.stage == Stage::Syncing {
            self.stage = Stage::Over;
        }
    }

    /// The guest has written its file systems.
    pub(super) fn synced(&mut self) {
        self.stage = Stage::Over;
    }
}

impl Monitor<'_> {
    /// Takes the end a step further. The exit code once it is over.
    pub(super) fn ended(&mut self) -> Result<Option<u8>, Fault> {
        let alive = self.guest.is_connected();
        let Phase::Ending(ending) = &mut self.phase else { return Ok(None) };
        let drained = self.relays.drained(ending.written, DRAIN);
        let now = Instant::now();
        match ending.stage {
            Stage::Draining if !drained => {
                ending.next = now + LOOK;
                return Ok(None);
            }
            Stage::Draining if self.plan.sync && alive => {
                ending.stage = Stage::Syncing;
                ending.next = now + SYNC;
                if self.ask(Call::Shutdown, Owed::Shutdown).is_ok() {
                    return Ok(None);
                }
            }
            Stage::Syncing if now < ending.next => return Ok(None),
            Stage::Draining | Stage::Syncing | Stage::Over => {}
        }
        let Phase::Ending(ending) = &self.phase else { return Ok(None) };
        Ok(Some(ending.status.shell_code()))
    }
}
