//! What a guest's port and memory-mapped accesses reach when KVM hands them to the VMM: a few ports, and the registers of
//! the virtio devices. Anything else reads as all ones and ignores writes, like a bus without a device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    api::{End, Mark},
    arch::current::layout,
    devices::{
        media::{Change, ExchangeError},
        virtio::{MmioTransport, SaveError, TransportState},
    },
    serial::{SerialPort, SerialRegisters},
};

/// Keyboard controller: its command port, and the command that pulses the processor's reset line.
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
/// Its status: neither buffer is full, so that the kernel does not wait before it resets.
const I8042_IDLE: u8 = 0;
/// pvpanic (QEMU docs/specs/pvpanic.rst): its port, and the events that it knows.
pub const PVPANIC_PORT: u16 = 0x505;
const PVPANIC_PANICKED: u8 = 1;
const PVPANIC_SHUTDOWN: u8 = 4;
/// The boot timer: the guest's kernel writes which point of the start it passed.
pub const BOOT_TIMER_PORT: u16 = 0x506;
const BOOT_TIMER_INIT: u8 = 1;
const BOOT_TIMER_CONTAINER: u8 = 2;
/// The serial port COM1's registers.
const SERIAL_FIRST: u16 = 0x3f8;
const SERIAL_LAST: u16 = 0x3ff;

/// What a write asks of the machine.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest ended itself.
    End(End),
    /// The guest passed a point of its start.
    Mark(Mark),
}

/// A machine's devices by address.
#[derive(Default)]
pub struct Bus {
    serial: Option<SerialPort>,
    transports: Vec<Arc<Mutex<MmioTransport>>>,
}

impl Bus {
    /// A bus with a serial port or without.
    #[must_use]
    pub fn new(serial: Option<SerialPort>) -> Self {
        Self { serial, transports: Vec::new() }
    }

    /// Adds the next virtio device; it has the addresses from [`Bus::virtio_address`] of its number on.
    pub fn add(&mut self, transport: Arc<Mutex<MmioTransport>>) {
        self.transports.push(transport);
    }

    /// The first address of virtio device `number`.
    #[must_use]
    pub fn virtio_address(number: usize) -> u64 {
        layout::VIRTIO_BASE + layout::VIRTIO_WINDOW * number as u64
    }

    /// An IN or INS: `data` is one or several accesses of the guest.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        let value = match port {
            I8042_COMMAND => I8042_IDLE,
            PVPANIC_PORT => PVPANIC_PANICKED | PVPANIC_SHUTDOWN,
            SERIAL_FIRST..=SERIAL_LAST => match &self.serial {
                Some(serial) => serial.read((port - SERIAL_FIRST).to_le_bytes()[0]),
                None => 0xff,
            },
            _ => 0xff,
        };
        data.fill(value);
    }

    /// An OUT or OUTS.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Effect {
        let Some(&value) = data.first() else { return Effect::None };
        match (port, value) {
            (I8042_COMMAND, I8042_RESET) => Effect::End(End::PowerOff),
            (PVPANIC_PORT, events) if events & PVPANIC_PANICKED != 0 => Effect::End(End::Panic),
            (PVPANIC_PORT, events) if events & PVPANIC_SHUTDOWN != 0 => Effect::End(End::PowerOff),
            (BOOT_TIMER_PORT, BOOT_TIMER_INIT) => Effect::Mark(Mark::InitExec),
            (BOOT_TIMER_PORT, BOOT_TIMER_CONTAINER) => Effect::Mark(Mark::ContainerExec),
            (SERIAL_FIRST..=SERIAL_LAST, _) => {
                if let Some(serial) = &self.serial {
                    serial.write((port - SERIAL_FIRST).to_le_bytes()[0], data);
                }
                Effect::None
            }
            _ => Effect::None,
        }
    }

    /// A read of guest-physical memory that is not there.
    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        match self.transport(address) {
            Some((transport, offset)) => {
                lock(transport).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// A write to guest-physical memory that is not there.
    pub fn memory_write(&self, address: u64, data: &[u8]) {
        if let Some((transport, offset)) = self.transport(address) {
            lock(transport).write(offset, data);
        }
    }

    /// Saves the virtio devices, in their order. When one cannot be saved all go on.
    ///
    /// # Errors
    /// [`SaveError`].
    pub fn save_devices(&self) -> Result<Vec<TransportState>, SaveError> {
        let saved: Result<_, _> =
            self.transports.iter().map(|transport| lock(transport).save()).collect();
        if saved.is_err() {
            self.resume_devices();
        }
        saved
    }

    /// Lets devices that were saved go on; the others do.
    pub fn resume_devices(&self) {
        for transport in &self.transports {
            lock(transport).resume();
        }
    }

    /// Puts a medium into a slot of a device or takes one out.
    ///
    /// # Errors
    /// [`ExchangeError`]; nothing has changed then.
    pub fn exchange(&self, change: Change) -> Result<(), ExchangeError> {
        let slot = change.slot();
        for transport in &self.transports {
            let mut transport = lock(transport);
            if transport.has_slot(&slot) {
                return transport.exchange(change);
            }
        }
        Err(ExchangeError::Unknown(slot))
    }

    /// The serial port as it is.
    #[must_use]
    pub fn save_serial(&self) -> Option<SerialRegisters> {
        self.serial.as_ref().map(SerialPort::save)
    }

    fn transport(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = address.checked_sub(layout::VIRTIO_BASE)?;
        let number = usize::try_from(offset / layout::VIRTIO_WINDOW).ok()?;
        Some((self.transports.get(number)?, offset % layout::VIRTIO_WINDOW))
    }
}

fn lock(transport: &Mutex<MmioTransport>) -> MutexGuard<'_, MmioTransport> {
    transport.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_the_effects_that_guests_rely_on() {
        let bus = Bus::new(None);
        let write = |port, value| bus.port_write(port, &[value]);
        assert_eq!(write(0x64, 0xfe), Effect::End(End::PowerOff));
        assert_eq!(write(0x64, 0xd1), Effect::None);
        assert_eq!(write(0x505, 1), Effect::End(End::Panic));
        assert_eq!(write(0x505, 4), Effect::End(End::PowerOff));
        assert_eq!(write(0x506, 1), Effect::Mark(Mark::InitExec));
        assert_eq!(write(0x506, 2), Effect::Mark(Mark::ContainerExec));
        assert_eq!(write(0x506, 3), Effect::None);
        assert_eq!(bus.port_write(0x505, &[]), Effect::None);
    }

    #[test]
    fn absent_devices_read_as_all_ones() {
        let bus = Bus::new(None);
        for port in [0x3f8, 0x3fd, 0x2f8, 0xcf8] {
            let mut data = [0; 4];
            bus.port_read(port, &mut data);
            assert_eq!(data, [0xff; 4]);
        }
        let mut data = [0; 8];
        bus.memory_read(0xd000_0000, &mut data);
        assert_eq!(data, [0xff; 8]);
        bus.memory_read(0x10, &mut data);
        assert_eq!(data, [0xff; 8]);
        bus.memory_write(u64::MAX, &data);
    }
}
