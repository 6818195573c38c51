//! Clones: what one gets before anything else, and the boot instead of one that fails before its container is made.

use std::time::Instant;

use bulkhead_protocol::{Awaken, Call, Failure, FailureKind, Reply};
use bulkhead_vmm::api::{Nic, VmConfig};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    rand::{GetRandomFlags, getrandom},
    time::{ClockId, clock_gettime},
};
use serde_json::{Value, json};

use super::{
    contained::Phase,
    core::{Monitor, Owed, VSOCK_NAME, log},
    fault::{Fault, printable, to},
    guest::Guest,
    machine::Machine,
    plan::{Plan, Template},
    poll::Source,
};
use crate::{template::slots, timeline::Step};

/// Bytes of a clone's seed.
const SEED: usize = 64;

/// How far a clone is.
#[derive(Debug)]
pub(super) struct Awakening {
    state: State,
    /// What the user should know.
    warnings: Vec<String>,
    /// Its VMM said that it cannot go on from the template.
    refused: bool,
    /// Its container has a process that was made ahead, and so many of its mounts.
    ahead: Option<usize>,
}

#[derive(Debug)]
enum State {
    /// The machine boots, or has booted.
    Boot,
    /// The clone's agent has not answered.
    Asleep,
    /// It has: the template's key, and the nonce that the agent knows.
    Awake(String, String),
}

impl Awakening {
    /// The machine with these network cards, which a clone may have no room for.
    pub(super) fn begin(plan: &Plan, nics: &[Nic]) -> Result<(Self, VmConfig), Fault> {
        let begun = |state, warnings| Self { state, warnings, refused: false, ahead: None };
        let Some(template) = &plan.template else {
            return Ok((begun(State::Boot, Vec::new()), booting(plan, nics)));
        };
        let mut machine = template.machine.clone();
        match slots::plug(&mut machine, nics) {
            Ok(()) => Ok((begun(State::Asleep, Vec::new()), machine)),
            Err(why) if template.required => {
                Err(Fault::Clone { key: template.key.short().to_owned(), why: why.to_string() })
            }
            Err(why) => {
                let line = format!("the microVM boots and is no clone: {why}");
                Ok((begun(State::Boot, vec![line]), booting(plan, nics)))
            }
        }
    }

    /// The VMM could not make the machine, or go on with it.
    pub(super) fn refused(&mut self) {
        self.refused |= matches!(self.state, State::Asleep);
    }

    /// The warnings, and whether the template is of no use.
    pub(super) fn take_news(&mut self) -> (Vec<String>, bool) {
        (std::mem::take(&mut self.warnings), self.refused)
    }

    /// The agent has made the container.
    pub(super) fn made(&mut self, ahead: Option<usize>) {
        self.ahead = ahead;
    }

    /// For `timeline.json`: what the machine is a clone of, how its agent has proved it, and what of the container was made
    /// before the clone was.
    pub(super) fn clone_of(&self) -> Value {
        match &self.state {
            State::Awake(key, nonce) => json!({ "key": key, "nonce": nonce, "ahead": self.ahead }),
            State::Boot | State::Asleep => Value::Null,
        }
    }
}

impl Monitor<'_> {
    /// The agent's connection is there. That of a clone waits for its first requests, which go out together.
    pub(super) fn awaken(&mut self) -> Result<(), Fault> {
        if !matches!(self.awakening.state, State::Asleep) {
            return Ok(());
        }
        let now = clock_gettime(ClockId::Realtime);
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let realtime_ns = number(now.tv_sec) * 1_000_000_000 + number(now.tv_nsec);
        let awaken = Awaken { seed: seed()?, realtime_ns };
        self.ask(Call::Awaken(awaken), Owed::Awaken)
            .map_err(|failure| Fault::Agent(failure.message))?;
        self.ask_to_create()
    }

    /// The agent's first answer.
    pub(super) fn awake(&mut self, result: Result<Reply, Failure>) -> Result<(), Fault> {
        let Some(template) = &self.plan.template else { return Ok(()) };
        let nonce = match result {
            Ok(Reply::Awake { nonce: Some(nonce) }) if nonce == template.nonce => nonce,
            Ok(reply) => {
                let reply = printable(&format!("{reply:?}"));
                return Err(Fault::Agent(format!("it is not its template's: {reply}")));
            }
            Err(failure) => return Err(Fault::Agent(failure.message)),
        };
        self.timeline.pass(Step::AgentReady);
        self.awakening.state = State::Awake(template.key.to_string(), nonce);
        Ok(())
    }

    /// Boots the machine of which a clone has failed, unless its container was made already or nothing but a clone is wanted.
    /// What the guest's kernel refuses may be the clone's fault; what the container asks for in vain is refused once.
    pub(super) fn boot_instead(&mut self, fault: Fault) -> Result<(), Fault> {
        let refused = matches!(&fault, Fault::Refused(why) if why.kind == FailureKind::System);
        let lost =
            matches!(fault, Fault::Ended(_) | Fault::Agent(_) | Fault::Timeout(_) | Fault::Vmm(_));
        let early = matches!(self.main.phase, Phase::Booting | Phase::Creating);
        let Some(Template { key, required, .. }) = &self.plan.template else { return Err(fault) };
        if !(lost || refused && !required) || !early || matches!(self.awakening.state, State::Boot)
        {
            return Err(fault);
        }
        if *required {
            return Err(Fault::Clone { key: key.short().to_owned(), why: fault.to_string() });
        }
        let line = format!(
            "a clone of template {} failed, so that its machine boots: {fault}",
            key.short()
        );
        log(self.files, &line);
        self.awakening.warnings.push(line);
        self.awakening.state = State::Boot;
        self.owed.clear();
        self.early_streams.clear();
        self.agent_gone = None;
        self.main.phase = Phase::Booting;
        self.poll.remove(self.machine.wake());
        self.machine.end();
        // A killed VMM leaves its socket, and connections of its guest.
        let sockets = self.plan.sockets();
        let _ = std::fs::remove_file(sockets.join(VSOCK_NAME));
        self.guest = Guest::listen(&sockets, VSOCK_NAME, &self.poll)?;
        self.machine = Machine::start(self.plan, &booting(self.plan, &self.network.nics))?;
        self.poll.add(self.machine.wake(), Source::Vmm, EventFlags::IN)?;
        self.timeline.start_again();
        self.timeline.pass(Step::VmmSpawned);
        self.machine_started();
        self.boot_deadline = Instant::now() + self.plan.boot_timeout;
        Ok(())
    }
}

/// The machine that boots.
fn booting(plan: &Plan, nics: &[Nic]) -> VmConfig {
    VmConfig { nics: nics.to_vec(), ..plan.machine.clone() }
}

/// Hexadecimal digits of the kernel's generator.
fn seed() -> Result<String, Fault> {
    let mut bytes = [0; SEED];
    loop {
        // Reads of this length are never short.
        match getrandom(&mut bytes, GetRandomFlags::empty()) {
            Ok(SEED) => return Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(to("get random bytes")(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_another() {
        let seed = || super::seed().unwrap();
        assert_eq!(seed().len(), 2 * SEED);
        assert_ne!(seed(), seed());
    }
}
