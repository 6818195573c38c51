//! The MMIO transport (virtio 1.3, 4.2): feature negotiation, queue set-up, and the status state machine.

use std::{fmt, io, sync::Arc};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    ActivateError, Interrupt, Resources, Running, VirtioDevice, feature,
    queue::QueueConfig,
    register::{self, Register},
    status::{self, Transition},
};
use crate::{
    api::Slot,
    devices::media::{Change, ExchangeError},
    memory::GuestMemory,
};

/// One device's registers and, while a driver runs it, the device.
pub struct MmioTransport {
    // Before the device, so that it is dropped first.
    pub(super) running: Option<Box<dyn Running>>,
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) memory: GuestMemory,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) doorbells: Vec<EventFd>,
    pub(super) queues: Vec<QueueConfig>,
    /// The bits that the driver has set.
    pub(super) status: u32,
    pub(super) offered: u64,
    pub(super) accepted: u64,
    pub(super) offered_half: u32,
    pub(super) accepted_half: u32,
    pub(super) selected_queue: u32,
    /// The running device was saved and waits for [`MmioTransport::resume`].
    pub(super) frozen: bool,
    /// The event loop leaves the device's own descriptor alone, because it became ready meanwhile.
    pub(super) unwatched: bool,
    /// Rung when the threads of the device are gone, if it has some.
    pub(super) rest: Option<EventFd>,
    /// The event loop leaves the doorbells to the device's threads.
    pub(super) theirs: bool,
    pub(super) watch_result: Result<(), event_manager::Error>,
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport")
            .field("kind", &self.device.kind())
            .field("status", &self.status)
            .field("accepted", &self.accepted)
            .field("queues", &self.queues)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

impl MmioTransport {
    pub(super) fn new(device: Box<dyn VirtioDevice>, memory: GuestMemory) -> io::Result<Self> {
        let sizes = device.queue_sizes();
        let doorbell = |_: &u16| EventFd::new(EFD_NONBLOCK);
        let rest = device.own_threads().then(|| EventFd::new(EFD_NONBLOCK)).transpose()?;
        Ok(Self {
            offered: device.features() | feature::VERSION_1,
            running: None,
            memory,
            interrupt: Arc::new(Interrupt::new()?),
            doorbells: sizes.iter().map(doorbell).collect::<io::Result<_>>()?,
            queues: sizes.iter().copied().map(QueueConfig::new).collect(),
            status: 0,
            accepted: 0,
            offered_half: 0,
            accepted_half: 0,
            selected_queue: 0,
            frozen: false,
            unwatched: false,
            rest,
            theirs: false,
            watch_result: Ok(()),
            device,
        })
    }

    /// Handles on the doorbells and the interrupt line, for the machine.
    pub(super) fn event_fds(&self) -> io::Result<(Vec<EventFd>, EventFd)> {
        let doorbells = self.doorbells.iter().map(EventFd::try_clone).collect::<io::Result<_>>()?;
        Ok((doorbells, self.interrupt.line().try_clone()?))
    }

    /// Whether the event loop took the device's descriptors.
    pub(super) fn take_watch_result(&mut self) -> Result<(), event_manager::Error> {
        std::mem::replace(&mut self.watch_result, Ok(()))
    }

    /// Answers a read of the device's page. Registers are read 4 bytes at a time, the configuration space from 0x100 on in
    /// any width; everything else reads as zero.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.device.read_config(offset, data);
        } else if let (Some(register), Ok(data)) =
            (Register::at(offset), <&mut [u8; 4]>::try_from(data))
        {
            *data = self.register(register).to_le_bytes();
        }
    }

    /// Answers a write to the device's page. What is not a register that can be written is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Some(register), Ok(data)) = (Register::at(offset), <[u8; 4]>::try_from(data)) {
            self.set_register(register, u32::from_le_bytes(data));
        }
    }

    /// Tells the driver that the configuration space changed: a new generation, and an interrupt if a driver runs.
    pub fn config_changed(&mut self) {
        if self.running.is_some() {
            self.interrupt.config_changed();
        } else {
            self.interrupt.next_generation();
        }
    }

    /// Whether the device has this slot.
    #[must_use]
    pub fn has_slot(&self, slot: &Slot) -> bool {
        self.device.has_slot(slot)
    }

    /// Puts a medium into a slot of the device or takes one out; the driver hears of it.
    ///
    /// # Errors
    /// [`ExchangeError`]; nothing has changed then.
    pub fn exchange(&mut self, change: Change) -> Result<(), ExchangeError> {
        if self.device.exchange(change)? {
            self.config_changed();
        }
        Ok(())
    }

    fn register(&self, register: Register) -> u32 {
        let queue = self.queues.get(self.selected_queue as usize);
        match register {
            Register::MagicValue => register::MAGIC,
            Register::Version => register::VERSION,
            Register::DeviceId => self.device.kind() as u32,
            Register::VendorId => register::VENDOR,
            Register::DeviceFeatures => half(self.offered, self.offered_half),
            Register::QueueSizeMax => queue.map_or(0, |queue| u32::from(queue.max_size)),
            Register::QueueReady => queue.map_or(0, |queue| u32::from(queue.ready)),
            Register::InterruptStatus => self.interrupt.pending(),
            Register::Status if self.interrupt.is_broken() => self.status | status::NEEDS_RESET,
            Register::Status => self.status,
            // There is no shared memory region (virtio 1.3, 4.2.2).
            Register::ShmLenLow
            | Register::ShmLenHigh
            | Register::ShmBaseLow
            | Register::ShmBaseHigh => u32::MAX,
            Register::ConfigGeneration => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn set_register(&mut self, register: Register, value: u32) {
        match register {
            Register::DeviceFeaturesSel => self.offered_half = value,
            Register::DriverFeaturesSel => self.accepted_half = value,
            Register::DriverFeatures => self.accept(value),
            Register::QueueSel => self.selected_queue = value,
            Register::QueueNotify => {
                // Normally KVM answers this one itself. A full counter means that the doorbell rings already.
                if let Some(doorbell) = self.doorbells.get(value as usize) {
                    let _ = doorbell.write(1);
                }
            }
            Register::InterruptAck => self.interrupt.acknowledge(value),
            Register::Status => self.set_status(value),
            Register::QueueReady => self.set_queue_ready(value == 1),
            _ => self.configure_queue(register, value),
        }
    }

    /// Takes half of the driver's features; they are fixed once `FEATURES_OK` is set.
    fn accept(&mut self, value: u32) {
        if self.status & (status::DRIVER | status::FEATURES_OK) != status::DRIVER {
            return;
        }
        let shift = match self.accepted_half {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.accepted &= !(u64::from(u32::MAX) << shift);
        self.accepted |= u64::from(value) << shift;
    }

    fn configure_queue(&mut self, register: Register, value: u32) {
        let running = self.running.is_some();
        let Some(queue) = self.queues.get_mut(self.selected_queue as usize) else { return };
        if running || queue.ready {
            return;
        }
        match register {
            Register::QueueSize => queue.size = value,
            Register::QueueDescLow => set_low(&mut queue.descriptors, value),
            Register::QueueDescHigh => set_high(&mut queue.descriptors, value),
            Register::QueueDriverLow => set_low(&mut queue.driver, value),
            Register::QueueDriverHigh => set_high(&mut queue.driver, value),
            Register::QueueDeviceLow => set_low(&mut queue.device, value),
            Register::QueueDeviceHigh => set_high(&mut queue.device, value),
            _ => {}
        }
    }

    /// A queue becomes ready only when it can be used, so that a driver that reads the register back knows.
    fn set_queue_ready(&mut self, ready: bool) {
        if self.running.is_some() {
            return;
        }
        let memory = &self.memory;
        if let Some(queue) = self.queues.get_mut(self.selected_queue as usize) {
            queue.ready = ready && queue.is_valid(memory);
        }
    }

    fn set_status(&mut self, value: u32) {
        match status::transition(self.status, value) {
            Transition::Illegal => {}
            Transition::Reset => self.reset(),
            Transition::Fail => {
                self.running = None;
                self.status |= status::FAILED;
            }
            Transition::Set(steps) => {
                for bit in steps.into_iter().filter(|bit| *bit != 0) {
                    if bit == status::FEATURES_OK && !self.features_agree() {
                        return;
                    }
                    self.status |= bit;
                    if bit == status::DRIVER_OK && self.activate().is_err() {
                        self.interrupt.needs_reset();
                    }
                }
            }
        }
    }

    /// The driver took nothing that was not offered, and knows that the device is not a legacy one (virtio 1.3, 6.1 and 6.2).
    fn features_agree(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & feature::VERSION_1 != 0
    }

    fn activate(&mut self) -> Result<(), ActivateError> {
        if !self.queues.iter().all(|queue| queue.ready && queue.is_valid(&self.memory)) {
            return Err(ActivateError::Queues(self.queues.len()));
        }
        let resources = self.resources(&vec![0; self.queues.len()])?;
        self.running = Some(self.device.activate(resources)?);
        Ok(())
    }

    /// What a running device needs; its queues, which must be valid, go on at `positions`.
    pub(super) fn resources(&self, positions: &[u16]) -> Result<Resources, ActivateError> {
        let event_idx = self.accepted & feature::EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for ((queue, doorbell), next) in self.queues.iter().zip(&self.doorbells).zip(positions) {
            queues.push(queue.build(event_idx, *next, doorbell.try_clone()?)?);
        }
        Ok(Resources {
            memory: self.memory.clone(),
            queues,
            interrupt: self.interrupt.clone(),
            features: self.accepted,
            rest: self.rest.as_ref().map(EventFd::try_clone).transpose()?,
        })
    }

    /// Sets everything but the configuration's generation back.
    pub(super) fn reset(&mut self) {
        self.frozen = false;
        self.running = None;
        self.interrupt.clear();
        self.status = 0;
        self.accepted = 0;
        self.offered_half = 0;
        self.accepted_half = 0;
        self.selected_queue = 0;
        for queue in &mut self.queues {
            *queue = QueueConfig::new(queue.max_size);
        }
    }
}

fn half(features: u64, which: u32) -> u32 {
    let half = match which {
        0 => features & u64::from(u32::MAX),
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(half).unwrap_or(0)
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
}
