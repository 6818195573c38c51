//! Puts devices and processors together: attaches the devices to guest memory and the event loop, wires them to KVM, and lets all of a
//! saved machine go on.

use std::sync::{Arc, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::{
    arch::current::layout,
    bus::Bus,
    devices::{
        BalloonCounts, BlockCounts, FsCounts, NetCounts, VsockCounts,
        balloon::Balloon,
        block::{Block, Files},
        fs::Fs,
        net::Net,
        rng::Rng,
        virtio::{Attached, attach},
        vsock::Vsock,
    },
    kvm::{Detected, KvmError, Vm},
    machine::{Events, MachineError},
    memory::GuestMemory,
    processors::{self, Processors},
    serial::SerialPort,
    snapshot::SavedMachine,
};

/// What the devices count.
#[derive(Default)]
pub struct Counts {
    /// Of each disk.
    pub disks: Vec<Arc<BlockCounts>>,
    /// Of the socket device.
    pub vsock: Option<Arc<VsockCounts>>,
    /// Of the balloon.
    pub balloon: Option<Arc<BalloonCounts>>,
    /// Of each share.
    pub shares: Vec<Arc<FsCounts>>,
    /// Of each network card.
    pub nics: Vec<Arc<NetCounts>>,
}

/// The devices that a machine has besides its source of random bytes.
pub struct Devices {
    /// The disks' files.
    pub disks: Vec<Files>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// Whether there is a memory balloon.
    pub balloon: bool,
    /// The shares.
    pub shares: Vec<Fs>,
    /// The network cards.
    pub nics: Vec<Net>,
}

/// Attaches the devices, in the order in which the guest sees them.
///
/// # Errors
/// [`MachineError`].
pub fn attach_all(
    devices: Devices,
    memory: &GuestMemory,
    events: &mut Events,
    counts: &mut Counts,
) -> Result<Vec<Attached>, MachineError> {
    let mut attached = Vec::new();
    for files in devices.disks {
        let device = Block::new(files);
        counts.disks.push(device.counts());
        attached.push(attach(device, memory.clone(), events)?);
    }
    if let Some(device) = devices.vsock {
        counts.vsock = Some(device.counts());
        attached.push(attach(device, memory.clone(), events)?);
    }
    attached.push(attach(Rng::new(), memory.clone(), events)?);
    if devices.balloon {
        let device = Balloon::new();
        counts.balloon = Some(device.counts());
        attached.push(attach(device, memory.clone(), events)?);
    }
    for device in devices.shares {
        counts.shares.push(device.counts());
        attached.push(attach(device, memory.clone(), events)?);
    }
    for device in devices.nics {
        counts.nics.push(device.counts());
        attached.push(attach(device, memory.clone(), events)?);
    }
    Ok(attached)
}

/// Gives each device its addresses, its doorbells and its interrupt line.
///
/// # Errors
/// [`KvmError`].
pub fn connect_all(
    vm: &Vm,
    serial: Option<(SerialPort, EventFd)>,
    attached: Vec<Attached>,
) -> Result<Bus, KvmError> {
    let serial = match serial {
        Some((port, interrupt)) => {
            vm.connect_interrupt(&interrupt, layout::SERIAL_IRQ)?;
            Some(port)
        }
        None => None,
    };
    let mut bus = Bus::new(serial);
    for (line, device) in (layout::VIRTIO_FIRST_IRQ..).zip(attached) {
        connect(vm, &mut bus, line, device)?;
    }
    Ok(bus)
}

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

/// Lets all of `saved` go on, whose memory the machine has: the processors; then the interrupt controllers, which may deliver to
/// them; then the devices, whose interrupts wait until they are wired; the clock at the end.
///
/// # Errors
/// [`MachineError`].
pub fn go_on(
    saved: &SavedMachine,
    kind: Detected,
    vm: &Vm,
    serial: Option<(SerialPort, EventFd)>,
    attached: Vec<Attached>,
) -> Result<(Processors, Bus), MachineError> {
    let same = |holds: bool, what| {
        if holds { Ok(()) } else { Err(MachineError::Incomplete(what)) }
    };
    same(saved.vcpus.len() == usize::from(saved.identity.machine.vcpus), "processors")?;
    same(saved.devices.len() == attached.len(), "devices")?;
    same(saved.serial.is_some() == serial.is_some(), "serial port")?;
    let made = processors::restore(kind, vm, &saved.vcpus)?;
    saved.chips.restore(vm.fd())?;
    let serial = match (serial, &saved.serial) {
        (Some((port, interrupt)), Some(registers)) => Some((port.restore(registers)?, interrupt)),
        (other, _) => other,
    };
    for (device, state) in attached.iter().zip(&saved.devices) {
        device.transport.lock().unwrap_or_else(PoisonError::into_inner).restore(state)?;
    }
    let bus = connect_all(vm, serial, attached)?;
    saved.chips.restore_clock(vm.fd())?;
    Ok((made, bus))
}
