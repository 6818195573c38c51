//! How a container leaves the machine of its pod: it is killed, the guest removes it and lets go of its disks, the VMM takes them out.

use std::time::Instant;

use bulkhead_protocol::{Call, ExitStatus, Failure, FailureKind, Reply, Target};
use bulkhead_vmm::api::RequestKind;

use super::{Asking, Stage, Use};
use crate::monitor::{
    clients::ClientId,
    contained::Phase,
    core::{Monitor, Owed, log},
    message::Answer,
};

impl Monitor<'_> {
    /// The agent says that the first process of a container has ended.
    pub(in super::super) fn member_exited(&mut self, id: &str, oom_killed: bool) {
        let Some(member) = self.pod.members.get_mut(id) else { return };
        if !member.contained.lives() {
            return;
        }
        member.contained.oom_killed |= oom_killed;
        member.contained.phase = Phase::Leaving;
        member.stage = Stage::Deleting(Asking::begin());
    }

    /// Kills a container that nobody stands for any more. One that is being made is killed when it is.
    pub(in super::super) fn kill_member(&mut self, id: &str) {
        let Some(member) = self.pod.members.get_mut(id) else { return };
        if !member.contained.lives() || member.contained.is_doomed() {
            return;
        }
        member.contained.doom(Instant::now());
        let target = Target { container: id.to_owned(), exec: None };
        // An agent that cannot be asked is a fault that is heard elsewhere.
        let call = Call::Kill { target, signal: libc::SIGKILL, all: true };
        let _ = self.ask(call, Owed::Kill(None, id.to_owned()));
    }

    /// A client wants a container gone.
    pub(in super::super) fn end_member(
        &mut self,
        client: ClientId,
        id: &str,
    ) -> Result<(), Failure> {
        if let Some(member) = self.pod.members.get_mut(id) {
            member.waiting.push(client);
            self.kill_member(id);
        } else {
            self.answer(client, &Answer::Done(Reply::Done));
        }
        Ok(())
    }

    /// Asks the guest what it is time to ask.
    pub(in super::super) fn step_leaving(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (id, member) in &mut self.pod.members {
            let (Stage::Deleting(asking) | Stage::Releasing(asking)) = &mut member.stage else {
                continue;
            };
            if asking.next.is_some_and(|at| at <= now) {
                asking.next = None;
                due.push(id.clone());
            }
        }
        for id in due {
            let Some(member) = self.pod.members.get(&id) else { continue };
            let devices = self.pod.devices(member);
            // An agent that cannot be asked is a fault that is heard elsewhere, and the end of all.
            let _ = match &member.stage {
                Stage::Deleting(_) => {
                    let call = Call::Delete { container: id.clone() };
                    self.ask(call, Owed::Delete(id))
                }
                _ if devices.is_empty() => {
                    self.eject_member(&id);
                    Ok(())
                }
                _ => self.ask(Call::Release { devices }, Owed::Release(id)),
            };
        }
    }

    /// The agent has removed a container, or not yet.
    pub(in super::super) fn member_deleted(&mut self, id: &str, result: Result<Reply, Failure>) {
        let Some(member) = self.pod.members.get_mut(id) else { return };
        let Stage::Deleting(asking) = &mut member.stage else { return };
        if let Err(failure) = result {
            if failure.kind == FailureKind::State && asking.again() {
                return;
            }
            log(self.files, &format_args!("container {id}: {}", failure.message));
        }
        self.release_member(id);
    }

    pub(super) fn release_member(&mut self, id: &str) {
        let Some(member) = self.pod.members.get_mut(id) else { return };
        member.contained.phase = Phase::Leaving;
        member.stage = Stage::Releasing(Asking::begin());
    }

    /// The guest uses a container's disks no more, or still does.
    pub(in super::super) fn member_released(&mut self, id: &str, result: Result<Reply, Failure>) {
        let Some(member) = self.pod.members.get_mut(id) else { return };
        let Stage::Releasing(asking) = &mut member.stage else { return };
        if let Err(failure) = result {
            if failure.kind == FailureKind::State && asking.again() {
                return;
            }
            log(self.files, &format_args!("container {id}: {}", failure.message));
            self.lose_disks(id);
        }
        self.eject_member(id);
    }

    fn eject_member(&mut self, id: &str) {
        let Some(member) = self.pod.members.get_mut(id) else { return };
        if member.slots.is_empty() {
            return self.forget_member(id);
        }
        member.stage = Stage::Ejecting;
        // A VMM that cannot be asked is gone, which is heard elsewhere.
        if let Ok(number) = self.machine.exchange(RequestKind::Eject(member.slots.clone()), &[]) {
            self.pod.asked.insert(number, id.to_owned());
        }
    }

    pub(super) fn lose_disks(&mut self, id: &str) {
        let Some(member) = self.pod.members.get(id) else { return };
        let places = member.disks.clone();
        self.pod.set_use(&places, Use::Lost);
    }

    /// Nothing is left of a container.
    pub(super) fn forget_member(&mut self, id: &str) {
        let Some(member) = self.pod.members.remove(id) else { return };
        self.pod.set_use(&member.disks, Use::Free);
        for client in self.execs.take_all(Some(id)) {
            let lost = Answer::Exited { status: ExitStatus::Signal(9), written: [u64::MAX; 2] };
            self.answer(client, &lost);
        }
        let gone = Answer::Gone { oom_killed: member.contained.oom_killed };
        self.answer(member.client, &gone);
        for client in member.waiting {
            self.answer(client, &Answer::Done(Reply::Done));
        }
    }
}
