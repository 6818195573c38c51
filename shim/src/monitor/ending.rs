//! The end of a container: its last output, its file systems, its machine.

use std::time::{Duration, Instant};

use bulkhead_protocol::{Call, ExitStatus};
use rustix::fs::{AtFlags, unlinkat};

use super::{
    contained::Phase,
    core::{Monitor, Owed, log},
    fault::{Fault, chain},
    message::{Answer, SOCKET},
    place::{self, Place},
};
use crate::{
    sandbox::vm::{ENDED, Ended},
    timeline::Step,
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
        let Phase::Ending(ending) = &mut self.main.phase else { return Ok(None) };
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
        let Phase::Ending(ending) = &self.main.phase else { return Ok(None) };
        Ok(Some(ending.status.shell_code()))
    }
    /// The program has ended.
    pub(super) fn end(&mut self, status: ExitStatus, written: [u64; 2], oom_killed: bool) {
        self.timeline.pass(Step::Ended);
        self.write_timeline();
        let ended = Ended { status, oom_killed };
        place::write(self.files, ENDED, &ended);
        self.relays.expect_rest();
        self.main.phase = Phase::Ending(Ending::new(status, written));
    }

    /// Ends what is left. The socket goes last, just before the process: until then it says that the exit code is still
    /// to come.
    pub(super) fn finish(mut self, place: &Place) {
        for client in self.execs.take_all(None) {
            let lost = Answer::Exited { status: ExitStatus::Signal(9), written: [u64::MAX; 2] };
            self.answer(client, &lost);
        }
        let Self { plan, files, machine, clients, upper, .. } = self;
        drop(machine);
        place.leave_network(plan);
        if let Some(Err(error)) = upper.map(|upper| upper.settle()) {
            log(files, &chain(&error));
        }
        // It may be gone with its directory.
        let _ = unlinkat(files, SOCKET, AtFlags::empty());
        drop(clients);
    }
}
