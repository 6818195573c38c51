//! A machine: made from a validated configuration, then running until it ends.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use event_manager::{EventManager, MutEventSubscriber};

use crate::{
    api::{Counters, End, RequestKind, Response},
    arch::current::{cpuid, layout, start},
    boot::{self, BootError},
    bus::Bus,
    cmdline,
    devices::{
        BalloonCounts, BlockCounts, FsCounts, VsockCounts,
        balloon::Balloon,
        block::{Block, BlockError},
        fs::Fs,
        rng::Rng,
        virtio::{AttachError, Attached, attach},
    },
    gate::{Gate, Threads},
    kvm::{Detected, Instructions, KvmError, Vm},
    memory::{self, MemoryError},
    notices::Notices,
    opened::Opened,
    resident::Gauge,
    software::{Assistant, XsaveLayout},
    validated::Validated,
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
    /// A disk's thread.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// A device's place in the machine.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A thread.
    #[error("cannot start the thread of virtual CPU {0}")]
    Thread(u8, #[source] io::Error),
}

/// A running machine.
pub struct Machine {
    shared: Arc<Shared>,
    threads: Threads,
    counts: Counts,
    gauge: Gauge,
}

/// What the devices count.
#[derive(Default)]
struct Counts {
    disks: Vec<Arc<BlockCounts>>,
    vsock: Option<Arc<VsockCounts>>,
    balloon: Option<Arc<BalloonCounts>>,
    shares: Vec<Arc<FsCounts>>,
}

impl Machine {
    /// Makes the machine and lets it run. Its devices join `events`; nothing answers the guest before that loop turns.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn start(
        mut config: Validated,
        opened: Opened,
        shares: Vec<Fs>,
        events: &mut Events,
        notices: Arc<Notices>,
    ) -> Result<Self, MachineError> {
        let Opened { host, kind, gauge, .. } = opened;
        let memory = memory::allocate(&layout::memory_ranges(config.memory))?;
        let vm = Vm::new(&host, memory.clone())?;
        vm.add_interrupt_controllers()?;

        let mut attached = Vec::new();
        let mut counts = Counts::default();
        for files in opened.disks {
            let device = Block::new(files)?;
            counts.disks.push(device.counts());
            attached.push(attach(device, memory.clone(), events)?);
        }
        if let Some(device) = opened.vsock {
            counts.vsock = Some(device.counts());
            attached.push(attach(device, memory.clone(), events)?);
        }
        attached.push(attach(Rng::new(), memory.clone(), events)?);
        if config.balloon {
            let device = Balloon::new();
            counts.balloon = Some(device.counts());
            attached.push(attach(device, memory.clone(), events)?);
        }
        for device in shares {
            counts.shares.push(device.counts());
            attached.push(attach(device, memory.clone(), events)?);
        }
        let serial = match opened.serial {
            Some((port, interrupt)) => {
                vm.connect_interrupt(&interrupt, layout::SERIAL_IRQ)?;
                Some(port)
            }
            None => None,
        };
        let words = cmdline::Words {
            kvm: kind,
            serial: serial.is_some(),
            balloon: config.balloon,
            virtio: attached.len(),
        };
        let cmdline = cmdline::compose(words, &config.cmdline);
        let mut bus = Bus::new(serial);
        for (line, device) in (layout::VIRTIO_FIRST_IRQ..).zip(attached) {
            connect(&vm, &mut bus, line, device)?;
        }
        let entry =
            boot::load(&memory, &mut config.kernel, config.initrd.as_mut(), &cmdline, config.vcpus)
                .map_err(|source| MachineError::Boot {
                    kernel: format!("kernel {}", config.kernel_path.display()),
                    source,
                })?;

        let template = cpuid::Template::of_host(host.kvm())?;
        let mut vcpus = Vec::new();
        let mut instructions = Instructions::default();
        for id in 0..config.vcpus {
            let fd = vm.add_vcpu(id)?;
            template.apply(&fd, id, config.vcpus)?;
            start::set_msrs(&fd)?;
            start::set_lapic(&fd)?;
            if id == 0 {
                start::enter_long_mode(&fd, entry)?;
            }
            let assistant = match kind {
                Detected::Hardware => None,
                Detected::Software => {
                    instructions.add(&fd);
                    let layout = XsaveLayout::new(template.entries());
                    Some(Assistant::new(layout, vm.xsave_size())?)
                }
            };
            vcpus.push(Vcpu::new(id, fd, assistant));
        }
        vcpu::install_kick_handler()?;
        let shared = Arc::new(Shared {
            vm,
            bus,
            notices,
            instructions,
            exits: AtomicU64::new(0),
            assists: AtomicU64::new(0),
        });
        let threads = spawn(vcpus, &shared)?;
        Ok(Self { shared, threads, counts, gauge })
    }

    /// Answers a request.
    ///
    /// # Errors
    /// One line that says why not.
    pub fn serve(&self, kind: RequestKind) -> Result<Response, String> {
        match kind {
            RequestKind::Pause => self.threads.pause(),
            RequestKind::Resume => self.threads.resume(),
            RequestKind::Stop => self.shared.notices.end(End::Stopped),
            RequestKind::Counters => {
                return Ok(Response::Counters(Box::new(self.counters()?)));
            }
            RequestKind::Snapshot => {
                return Err("this machine cannot be saved: its configuration has no \"snapshot\""
                    .to_owned());
            }
        }
        Ok(Response::Done)
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
        let Counts { disks, vsock, balloon, shares } = &self.counts;
        let disks = |count: fn(&BlockCounts) -> u64| disks.iter().map(|d| count(d)).sum();
        let vsock = |count: fn(&VsockCounts) -> u64| vsock.as_ref().map_or(0, |v| count(v));
        let balloon = |count: fn(&BalloonCounts) -> u64| balloon.as_ref().map_or(0, |b| count(b));
        let shares = |count: fn(&FsCounts) -> u64| shares.iter().map(|s| count(s)).sum();
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
            overhead_kib: resident.own_kib,
            guest_kib: resident.guest_kib,
            guest_private_kib: resident.guest_private_kib,
        })
    }
}

/// Gives a device its addresses, its doorbells and its interrupt line.
fn connect(vm: &Vm, bus: &mut Bus, line: u32, device: Attached) -> Result<(), KvmError> {
    /// `QueueNotify` (virtio 1.3, 4.2.2).
    const QUEUE_NOTIFY: u64 = 0x50;
    let number = (line - layout::VIRTIO_FIRST_IRQ) as usize;
    let notify = Bus::virtio_address(number) + QUEUE_NOTIFY;
    for (queue, doorbell) in (0u32..).zip(&device.doorbells) {
        vm.connect_doorbell(doorbell, notify, queue)?;
    }
    vm.connect_interrupt(&device.interrupt, line)?;
    bus.add(device.transport);
    Ok(())
}

fn spawn(vcpus: Vec<Vcpu>, shared: &Arc<Shared>) -> Result<Threads, MachineError> {
    let gate = Arc::new(Gate::new(vcpus.len()));
    let mut handles = Vec::new();
    let mut failed = None;
    for (id, vcpu) in (0u8..).zip(vcpus) {
        let (shared, their_gate) = (Arc::clone(shared), Arc::clone(&gate));
        let started = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .stack_size(VCPU_STACK)
            .spawn(move || vcpu.run(&shared, &their_gate));
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
