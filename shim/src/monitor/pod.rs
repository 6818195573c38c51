//! Containers that join the machine of a pod: each belongs to a client, the process of the host that stands for it.
//!
//! ```text
//! filling --media are in--> making --reply--> alive --ended, or killed because its client is gone--+
//!    |                         |                                                                  v
//!    |                         +--refused------------------------> releasing <--removed-- deleting
//!    +--refused--> nothing left <--media are out-- ejecting <--disks are let go of--+
//! ```
//!
//! The guest's answers say only whether what was asked is done. A disk that it does not let go of is taken away, and its slot is not used again.

mod leaving;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use bulkhead_protocol::{Call, Create, Failure, Reply, Shared, Stdio};
use bulkhead_vmm::api::{Medium, RequestKind, Slot, VmConfig};

use super::{
    clients::ClientId,
    contained::{Contained, Phase, system, wrong},
    core::{Monitor, Owed, log},
    execs::ExecId,
    fault::{Fault, chain, printable},
    message::{Answer, Join, JoinDisk},
    messages::MOST_WARNINGS,
};
use crate::template::slots::is_for_members;

/// More containers than this cannot join a machine.
const MOST_MEMBERS: usize = 128;
/// How long the guest may take to remove what it has of a container.
const LEAVE: Duration = Duration::from_secs(60);
/// How often it is asked again meanwhile.
const AGAIN: Duration = Duration::from_millis(20);

/// The containers that have joined, and the disks that they can have.
#[derive(Debug)]
pub(super) struct Pod {
    /// Whether containers can join.
    open: bool,
    disks: Vec<DiskSlot>,
    members: BTreeMap<String, Member>,
    /// What the VMM was asked, and for whom.
    asked: BTreeMap<u64, String>,
}

/// A disk of the machine.
#[derive(Debug)]
struct DiskSlot {
    id: String,
    /// Its name in the guest.
    device: PathBuf,
    read_only: bool,
    use_: Use,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    Taken,
    /// The guest did not let go of it.
    Lost,
}

/// A container that has joined.
#[derive(Debug)]
struct Member {
    contained: Contained,
    client: ClientId,
    exec: ExecId,
    /// The process of the host that stands for it.
    pid: Option<i32>,
    /// Its disks, by their places in [`Pod::disks`].
    disks: Vec<usize>,
    slots: Vec<Slot>,
    stage: Stage,
    /// Clients that wait until nothing is left of it.
    waiting: Vec<ClientId>,
}

#[derive(Debug)]
enum Stage {
    /// Its media are put in; then it is made.
    Filling(Box<Create>),
    Making,
    Alive,
    /// The guest is asked to remove it.
    Deleting(Asking),
    /// The guest is asked whether its disks are free.
    Releasing(Asking),
    Ejecting,
}

/// Something that the guest is asked until it is so.
#[derive(Debug)]
struct Asking {
    /// Absent: the answer is awaited.
    next: Option<Instant>,
    until: Instant,
}

impl Asking {
    fn begin() -> Self {
        let now = Instant::now();
        Self { next: Some(now), until: now + LEAVE }
    }

    /// The guest was asked in vain; false: it has had its time.
    fn again(&mut self) -> bool {
        let now = Instant::now();
        self.next = Some(now + AGAIN);
        now < self.until
    }
}

impl Pod {
    /// For containers that join this machine.
    pub(super) fn of(machine: &VmConfig) -> Self {
        let named = (b'a'..=b'z').zip(&machine.disks).map(|(letter, disk)| DiskSlot {
            id: disk.id.clone(),
            device: format!("/dev/vd{}", char::from(letter)).into(),
            read_only: disk.read_only,
            use_: Use::Free,
        });
        let disks = named.filter(|slot| is_for_members(&slot.id)).collect();
        Self { open: machine.exchange, disks, members: BTreeMap::new(), asked: BTreeMap::new() }
    }

    pub(super) fn contained(&mut self, id: &str) -> Option<&mut Contained> {
        self.members.get_mut(id).map(|member| &mut member.contained)
    }

    /// Nothing of any of them runs or is awaited.
    pub(super) fn rests(&self) -> bool {
        self.asked.is_empty() && self.members.values().all(|member| member.contained.rests())
    }

    /// For whom the VMM was asked this.
    pub(super) fn asked(&mut self, number: u64) -> Option<String> {
        self.asked.remove(&number)
    }

    /// When something is to be done next.
    ///
    /// # Errors
    /// [`Fault::Unkillable`].
    pub(super) fn wake_at(
        &self,
        now: Instant,
        last_word: Instant,
    ) -> Result<Option<Instant>, Fault> {
        let mut first: Option<Instant> = None;
        for member in self.members.values() {
            let asking = match &member.stage {
                Stage::Deleting(asking) | Stage::Releasing(asking) => asking.next,
                _ => None,
            };
            let dies_by = member.contained.dies_by(now, last_word)?;
            first = first.into_iter().chain(asking).chain(dies_by).min();
        }
        Ok(first)
    }

    /// Free disks for these, by their places; none for one without files.
    pub(super) fn find(&self, wanted: &[JoinDisk]) -> Result<Vec<Option<usize>>, Failure> {
        let mut found = Vec::new();
        for JoinDisk { read_only, files } in wanted {
            if *files == 0 {
                found.push(None);
                continue;
            }
            let free = |(place, slot): &(usize, &DiskSlot)| {
                slot.read_only == *read_only
                    && slot.use_ == Use::Free
                    && !found.contains(&Some(*place))
            };
            let Some((place, _)) = self.disks.iter().enumerate().find(free) else {
                let all = self.disks.iter().filter(|slot| slot.read_only == *read_only);
                let kind = if *read_only { "read-only" } else { "writable" };
                return Err(system(format!(
                    "the pod's {} {kind} disks are all in use; remove a container that has ended",
                    all.count()
                )));
            };
            found.push(Some(place));
        }
        Ok(found)
    }

    /// The devices of a member's disks.
    fn devices(&self, member: &Member) -> Vec<PathBuf> {
        let disks = member.disks.iter().filter_map(|place| self.disks.get(*place));
        disks.map(|slot| slot.device.clone()).collect()
    }

    fn set_use(&mut self, places: &[usize], use_: Use) {
        for place in places {
            if let Some(slot) = self.disks.get_mut(*place).filter(|slot| slot.use_ != Use::Lost) {
                slot.use_ = use_;
            }
        }
    }
}

impl Monitor<'_> {
    /// Begins to make a container in this machine.
    pub(super) fn join(&mut self, client: ClientId, join: Join) -> Result<(), Failure> {
        let fds = self.clients.take_fds(client);
        let id = join.container.clone();
        if !self.pod.open {
            return Err(wrong(format!("container {} is not the sandbox of a pod", self.plan.id)));
        }
        if !self.main.lives() {
            return Err(wrong(format!("the pod's sandbox {} is not running", self.plan.id)));
        }
        if id == self.plan.id || self.pod.members.contains_key(&id) {
            return Err(wrong(format!("container {id} exists in the pod already")));
        }
        if self.pod.members.len() >= MOST_MEMBERS {
            return Err(wrong(format!("{MOST_MEMBERS} containers have joined the pod already")));
        }
        let shared = self.shared(&join)?;
        let named = self.pod.find(&join.disks)?;
        let places: Vec<_> = named.iter().copied().flatten().collect();
        let mut media = Vec::new();
        for (place, disk) in named.iter().zip(&join.disks) {
            let Some(slot) = place.and_then(|place| self.pod.disks.get(place)) else { continue };
            media.push(Medium::Disk { id: slot.id.clone(), files: disk.files });
        }
        media.extend(join.entries.iter().map(|entry| Medium::Entry {
            share: entry.share.clone(),
            name: entry.name.clone(),
            read_only: entry.read_only,
            sealed: entry.sealed,
        }));
        let slots: Vec<_> = media.iter().map(Medium::slot).collect();
        let number = self.insert(media, &fds)?;
        self.pod.set_use(&places, Use::Taken);
        let (exec, _, stdio) = self.execs.add(client, &id, true, join.streams, join.terminal);
        self.clients.give(client, exec);
        let create = self.creation(join, &named, stdio, shared);
        self.pod.asked.insert(number, id.clone());
        let member = Member {
            contained: Contained::new(Phase::Creating),
            client,
            exec,
            pid: self.clients.pid(client),
            disks: places,
            slots,
            stage: Stage::Filling(Box::new(create)),
            waiting: Vec::new(),
        };
        self.pod.members.insert(id, member);
        Ok(())
    }

    fn insert(&mut self, media: Vec<Medium>, fds: &[OwnedFd]) -> Result<u64, Failure> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let wanted: usize = media.iter().map(Medium::descriptors).sum();
        if wanted != fds.len() {
            let came = fds.len();
            return Err(system(format!("{came} descriptors came with {wanted} things to share")));
        }
        let asked = self.machine.exchange(RequestKind::Insert(media), &fds);
        asked.map_err(|error| system(format!("the VMM cannot be asked: {}", chain(&error))))
    }

    /// What the agent is asked for.
    fn creation(
        &self,
        join: Join,
        places: &[Option<usize>],
        stdio: Stdio,
        shared: Vec<Shared>,
    ) -> Create {
        let Join { container, bundle, spec, mut root, memory, .. } = join;
        for device in root.devices() {
            let number = (b'a'..=b'z').zip(places).find(|(letter, _)| {
                device.as_os_str() == format!("/dev/vd{}", char::from(*letter)).as_str()
            });
            let place = number.and_then(|(_, place)| *place);
            if let Some(slot) = place.and_then(|place| self.pod.disks.get(place)) {
                device.clone_from(&slot.device);
            }
        }
        let shares = self.plan.machine.shares.iter().map(|share| share.tag.clone()).collect();
        Create { container, spec, root, stdio, shares, bundle, network: None, shared, memory }
    }

    /// Whose namespaces the container gets.
    fn shared(&self, join: &Join) -> Result<Vec<Shared>, Failure> {
        let own = rustix::process::getpid().as_raw_pid();
        let whose = |pid: Option<i32>| match pid {
            Some(pid) if pid != own => {
                let mut members = self.pod.members.iter();
                let found = members.find(|(_, member)| member.pid == Some(pid));
                found.map(|(id, _)| id.clone()).ok_or_else(|| {
                    wrong(format!("process {pid} stands for no container of the pod"))
                })
            }
            _ => Ok(self.plan.id.clone()),
        };
        let shared = join.shared.iter();
        shared
            .map(|(kind, pid)| Ok(Shared { kind: kind.clone(), container: whose(*pid)? }))
            .collect()
    }

    /// The VMM has put media in or taken them out.
    pub(super) fn exchanged(&mut self, id: &str, result: Result<(), String>) {
        let Some(member) = self.pod.members.get_mut(id) else { return };
        match std::mem::replace(&mut member.stage, Stage::Making) {
            Stage::Filling(create) => {
                let gone = self.clients.exec(member.client) != Some(member.exec);
                if let Err(why) = result {
                    // None of them is in.
                    self.refuse_member(id, system(printable(&why)));
                    self.forget_member(id);
                } else if gone {
                    self.release_member(id);
                } else if let Err(failure) =
                    self.ask(Call::Create(create), Owed::Join(id.to_owned()))
                {
                    self.refuse_member(id, failure);
                    self.release_member(id);
                }
            }
            Stage::Ejecting => {
                if let Err(why) = result {
                    log(self.files, &format_args!("container {id}: {}", printable(&why)));
                    self.lose_disks(id);
                }
                self.forget_member(id);
            }
            other => member.stage = other,
        }
    }

    /// The agent has made a container, or not.
    pub(super) fn member_made(&mut self, id: &str, result: Result<Reply, Failure>) {
        let Some(member) = self.pod.members.get_mut(id) else { return };
        match result {
            Ok(reply) => {
                member.stage = Stage::Alive;
                member.contained.phase = Phase::Created;
                let (client, exec) = (member.client, member.exec);
                if let Reply::Process { warnings, .. } = reply {
                    for warning in warnings.iter().take(MOST_WARNINGS) {
                        log(self.files, &format_args!("container {id}: {}", printable(warning)));
                    }
                }
                self.execs.started(exec);
                self.step_exec(exec);
                if self.clients.exec(client) != Some(exec) {
                    self.kill_member(id);
                }
            }
            Err(failure) => {
                self.refuse_member(id, failure);
                self.release_member(id);
            }
        }
    }

    /// Tells the client that its container could not be made.
    fn refuse_member(&mut self, id: &str, failure: Failure) {
        let Some(member) = self.pod.members.get(id) else { return };
        let (client, exec) = (member.client, member.exec);
        self.execs.remove(exec);
        self.answer(client, &Answer::Failed(failure));
    }
}
