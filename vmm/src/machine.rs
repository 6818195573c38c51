//! A machine: made from a validated configuration, then running until it ends.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use event_manager::{EventManager, MutEventSubscriber};

use crate::{
    api::{Counters, End, Medium, RequestKind, Response, Slot},
    arch::current::layout,
    assembly::{Counts, Devices, attach_all, connect_all, go_on},
    boot::{self, BootError},
    cmdline,
    devices::{
        BalloonCounts, BlockCounts, FsCounts, NetCounts, VsockCounts,
        fs::Fs,
        media::Change,
        virtio::{self, AttachError},
    },
    gate::{Gate, Threads},
    kvm::{KvmError, Vm},
    memory::{self, MemoryError},
    notices::Notices,
    opened::Opened,
    processors::{self, Processors},
    program::chain,
    resident::Gauge,
    serial::SerialError,
    snapshot::{RestoreError, Saver},
    validated::{Origin, Validated},
    vcpu::{self, Shared, Vcpu},
};

/// The event loop that the devices and the control sockets live in.
pub type Events = EventManager<Arc<Mutex<dyn MutEventSubscriber + Send>>>;

/// A vCPU's thread needs little: its deepest call is the completion of an instruction.
const VCPU_STACK: usize = 128 << 10;

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel and what goes with it.
    #[error("{kernel}")]
    Boot {
        /// The kernel's path.
        kernel: String,
        /// Why.
        source: BootError,
    },
    /// A device's place in the machine.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The saved machine's files.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A device does not go on.
    #[error("cannot go on from the saved machine")]
    Device(#[from] virtio::RestoreError),
    /// The serial port does not go on.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// The parts of a saved machine are not those that it says it has.
    #[error("the saved machine's {0} are not those of its shape; save the machine again")]
    Incomplete(&'static str),
    /// A thread.
    #[error("cannot start the thread of virtual CPU {0}")]
    Thread(u8, #[source] io::Error),
}

/// A running machine.
pub struct Machine {
    shared: Arc<Shared>,
    threads: Threads,
    vcpus: Vec<Arc<Mutex<Vcpu>>>,
    counts: Counts,
    gauge: Gauge,
    saver: Option<Mutex<Saver>>,
    exchange: bool,
}

impl Machine {
    /// Makes the machine and lets it run. Its devices join `events`; nothing answers the guest before that loop turns.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn start(
        config: Validated,
        opened: Opened,
        shares: Vec<Fs>,
        events: &mut Events,
        notices: Arc<Notices>,
    ) -> Result<Self, MachineError> {
        let Opened { host, kind, disks, vsock, nics, serial, gauge, source, target, .. } = opened;
        let ranges = layout::memory_ranges(config.memory);
        let (saved, memory) = match source {
            Some(source) => source.map(&ranges).map(|(saved, memory)| (Some(saved), memory))?,
            None => (None, memory::allocate(&ranges)?),
        };
        let vm = Vm::new(&host, memory.clone())?;
        vm.add_interrupt_controllers()?;
        let mut counts = Counts::default();
        let devices = Devices { disks, vsock, balloon: config.balloon, shares, nics };
        let attached = attach_all(devices, &memory, events, &mut counts)?;
        let exchange = config.exchange;
        let made = match (config.origin, saved) {
            (Origin::Boot { mut kernel, mut initrd }, _) => {
                let words = cmdline::Words {
                    kvm: kind,
                    serial: serial.is_some(),
                    balloon: config.balloon,
                    virtio: attached.len(),
                };
                let cmdline = cmdline::compose(words, &config.shape.cmdline);
                let count = config.shape.vcpus;
                let entry = boot::load(&memory, &mut kernel, initrd.as_mut(), &cmdline, count)
                    .map_err(|source| {
                        let kernel = format!("kernel {}", config.kernel_path.display());
                        MachineError::Boot { kernel, source }
                    })?;
                let processors = processors::boot(&host, kind, &vm, count, entry)?;
                (processors, connect_all(&vm, serial, attached)?)
            }
            (Origin::Saved(_), saved) => {
                let saved = saved.ok_or(MachineError::Incomplete("state"))?;
                go_on(&saved, kind, &vm, serial, attached)?
            }
        };
        let (Processors { vcpus, instructions }, bus) = made;
        let saver = match target {
            Some(target) => Some(Mutex::new(Saver::new(target, &host, kind)?)),
            None => None,
        };
        vcpu::install_kick_handler()?;
        let (exits, assists) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { vm, bus, notices, instructions, exits, assists });
        let vcpus: Vec<_> = vcpus.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect();
        let threads = spawn(&vcpus, &shared)?;
        Ok(Self { shared, threads, vcpus, counts, gauge, saver, exchange })
    }

    /// Answers a request with which these descriptors came.
    ///
    /// # Errors
    /// One line that says why not.
    pub fn serve(&self, kind: RequestKind, descriptors: Vec<OwnedFd>) -> Result<Response, String> {
        match kind {
            RequestKind::Pause => self.threads.pause(),
            RequestKind::Resume => {
                self.shared.bus.resume_devices();
                self.threads.resume();
            }
            RequestKind::Stop => self.shared.notices.end(End::Stopped),
            RequestKind::Counters => {
                return Ok(Response::Counters(Box::new(self.counters()?)));
            }
            RequestKind::Snapshot => self.save()?,
            RequestKind::Insert(media) => self.insert(media, descriptors)?,
            RequestKind::Eject(slots) => self.eject(slots)?,
        }
        Ok(Response::Done)
    }

    fn insert(&self, media: Vec<Medium>, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        self.may_exchange()?;
        let (came, mut descriptors) = (descriptors.len(), descriptors.into_iter());
        let mut inserted = Vec::new();
        for medium in media {
            let slot = medium.slot();
            let wanted = medium.descriptors();
            let files: Vec<_> = descriptors.by_ref().take(wanted).collect();
            let done = if files.len() == wanted {
                let change = Change::Insert(medium, files);
                self.shared.bus.exchange(change).map_err(|error| chain(&error))
            } else {
                Err(format!("{slot} needs {wanted} descriptors; {came} came with the request"))
            };
            match done {
                Ok(()) => inserted.push(slot),
                Err(why) => {
                    for slot in inserted {
                        // It was empty a moment ago.
                        let _ = self.shared.bus.exchange(Change::Eject(slot));
                    }
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    fn eject(&self, slots: Vec<Slot>) -> Result<(), String> {
        self.may_exchange()?;
        let mut first = Ok(());
        for slot in slots {
            // As many as can be.
            let done = self.shared.bus.exchange(Change::Eject(slot));
            first = first.and(done.map_err(|error| chain(&error)));
        }
        first
    }

    fn may_exchange(&self) -> Result<(), String> {
        match self.exchange {
            true => Ok(()),
            false => Err("this machine's media stay: its configuration has no \"exchange\"".into()),
        }
    }

    fn save(&self) -> Result<(), String> {
        let Some(saver) = &self.saver else {
            return Err(
                "this machine cannot be saved: its configuration has no \"snapshot\"".to_owned()
            );
        };
        self.threads.pause();
        let mut saver = saver.lock().unwrap_or_else(PoisonError::into_inner);
        saver.save(&self.shared, &self.vcpus).map_err(|error| chain(&error))
    }

    /// Ends the guest; returns when no vCPU runs any more.
    pub fn stop(&self) {
        self.threads.stop();
    }

    fn counters(&self) -> Result<Counters, String> {
        let guest = memory::host_ranges(self.shared.vm.memory());
        let resident = self
            .gauge
            .measure(&guest)
            .map_err(|error| format!("cannot read /proc/self/smaps: {error}"))?;
        let Counts { disks, vsock, balloon, shares, nics } = &self.counts;
        let disks = |count: fn(&BlockCounts) -> u64| disks.iter().map(|d| count(d)).sum();
        let vsock = |count: fn(&VsockCounts) -> u64| vsock.as_ref().map_or(0, |v| count(v));
        let balloon = |count: fn(&BalloonCounts) -> u64| balloon.as_ref().map_or(0, |b| count(b));
        let shares = |count: fn(&FsCounts) -> u64| shares.iter().map(|s| count(s)).sum();
        let nics = |count: fn(&NetCounts) -> u64| nics.iter().map(|n| count(n)).sum();
        Ok(Counters {
            instructions: self.shared.instructions.total(),
            exits: self.shared.exits.load(Ordering::Relaxed),
            assists: self.shared.assists.load(Ordering::Relaxed),
            block_requests: disks(|disk| disk.requests.get()),
            block_read: disks(|disk| disk.read.get()),
            block_written: disks(|disk| disk.written.get()),
            block_errors: disks(|disk| disk.errors.get()),
            vsock_packets: vsock(|vsock| vsock.packets.get()),
            vsock_errors: vsock(|vsock| vsock.errors.get()),
            balloon_pages: balloon(|balloon| balloon.pages.get()),
            balloon_errors: balloon(|balloon| balloon.errors.get()),
            share_requests: shares(|share| share.requests.get()),
            share_errors: shares(|share| share.errors.get()),
            net_received: nics(|nic| nic.received.get()),
            net_received_bytes: nics(|nic| nic.received_bytes.get()),
            net_sent: nics(|nic| nic.sent.get()),
            net_sent_bytes: nics(|nic| nic.sent_bytes.get()),
            net_dropped: nics(|nic| nic.dropped.get()),
            net_errors: nics(|nic| nic.errors.get()),
            overhead_kib: resident.own_kib,
            guest_kib: resident.guest_kib,
            guest_private_kib: resident.guest_private_kib,
        })
    }
}

fn spawn(vcpus: &[Arc<Mutex<Vcpu>>], shared: &Arc<Shared>) -> Result<Threads, MachineError> {
    let gate = Arc::new(Gate::new(vcpus.len()));
    let mut handles = Vec::new();
    let mut failed = None;
    for (id, vcpu) in (0u8..).zip(vcpus) {
        let (vcpu, shared, their_gate) = (Arc::clone(vcpu), Arc::clone(shared), Arc::clone(&gate));
        let started = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .stack_size(VCPU_STACK)
            .spawn(move || vcpu::run(&vcpu, &shared, &their_gate));
        match started {
            Ok(handle) => handles.push(handle),
            Err(source) => {
                gate.leave();
                failed.get_or_insert(MachineError::Thread(id, source));
            }
        }
    }
    let threads = Threads::new(gate, handles);
    failed.map_or(Ok(threads), Err)
}
