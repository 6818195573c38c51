//! The serial port, for debugging: what the guest writes to COM1 goes to a file or to standard output. It has no input.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use vm_superio::{Serial, SerialState, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::EventFd;

use crate::api::SerialOutput;

/// Why the serial port could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// The file that takes the output.
    #[error("cannot open the serial console's output {path}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The interrupt's event.
    #[error("cannot make the serial console's interrupt")]
    Event(#[source] io::Error),
}

/// What the guest wrote into the registers. There is no input, so that nothing waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialRegisters {
    baud_divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
}

/// The serial port.
pub struct SerialPort {
    uart: Mutex<Serial<Interrupt, NoEvents, Output>>,
}

/// Where the bytes go. A write that waits for a reader ends when its thread is kicked, so that a machine whose output nobody
/// reads can still be paused and stopped.
struct Output(File);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| match error.kind() {
            // `write_all` would try again for ever.
            io::ErrorKind::Interrupted => io::ErrorKind::WouldBlock.into(),
            _ => error,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> Result<(), io::Error> {
        self.0.write(1)
    }
}

impl SerialPort {
    /// A port whose output goes to `output`, and the event that is its interrupt.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn new(output: &SerialOutput) -> Result<(Self, EventFd), SerialError> {
        let (opened, path) = match output {
            SerialOutput::Stdout => (
                io::stdout().as_fd().try_clone_to_owned().map(File::from),
                "standard output".into(),
            ),
            SerialOutput::File(path) => (
                OpenOptions::new().create(true).append(true).open(path),
                path.display().to_string(),
            ),
        };
        let file = opened.map_err(|source| SerialError::Open { path, source })?;
        let event =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(SerialError::Event)?;
        let ours = event.try_clone().map_err(SerialError::Event)?;
        Ok((Self { uart: Mutex::new(Serial::new(Interrupt(ours), Output(file))) }, event))
    }

    /// The registers as they are.
    pub(crate) fn save(&self) -> SerialRegisters {
        let state = self.uart().state();
        SerialRegisters {
            baud_divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
        }
    }

    /// A new port goes on with these registers, and raises the interrupt that they say is pending.
    pub(crate) fn restore(self, registers: &SerialRegisters) -> Result<Self, SerialError> {
        let [baud_divisor_low, baud_divisor_high] = registers.baud_divisor;
        let state = SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: registers.interrupt_enable,
            interrupt_identification: registers.interrupt_identification,
            line_control: registers.line_control,
            line_status: registers.line_status,
            modem_control: registers.modem_control,
            modem_status: registers.modem_status,
            scratch: registers.scratch,
            in_buffer: Vec::new(),
        };
        let uart = self.uart.into_inner().unwrap_or_else(PoisonError::into_inner);
        let event = uart.interrupt_evt().0.try_clone().map_err(SerialError::Event)?;
        let uart = Serial::from_state(&state, Interrupt(event), NoEvents, uart.into_writer())
            .map_err(|error| SerialError::Event(io::Error::other(error)))?;
        Ok(Self { uart: Mutex::new(uart) })
    }

    fn uart(&self) -> MutexGuard<'_, Serial<Interrupt, NoEvents, Output>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads register `offset`.
    pub(crate) fn read(&self, offset: u8) -> u8 {
        self.uart().read(offset)
    }

    /// Writes each byte to register `offset`. A byte that the output does not take is lost, as on a line that nobody reads.
    pub(crate) fn write(&self, offset: u8, data: &[u8]) {
        let mut uart = self.uart();
        for &byte in data {
            let _ = uart.write(offset, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_writes_reaches_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let (port, _event) = SerialPort::new(&SerialOutput::File(path.clone())).unwrap();
        port.write(0, b"hello\n");
        assert_eq!(std::fs::read(path).unwrap(), b"hello\n");
        assert_ne!(port.read(5) & 0x20, 0, "the transmitter is always ready");
    }

    #[test]
    fn a_new_port_goes_on_with_the_registers_and_the_pending_interrupt() {
        let directory = tempfile::tempdir().unwrap();
        let port =
            |name: &str| SerialPort::new(&SerialOutput::File(directory.path().join(name))).unwrap();
        let (first, _event) = port("first");
        first.write(7, b"s");
        first.write(1, &[2]);
        let (second, event) = port("second");
        let second = second.restore(&first.save()).unwrap();
        assert_eq!(second.save(), first.save());
        assert_eq!(second.read(7), b's');
        assert_eq!(event.read().unwrap(), 1, "the transmitter is empty");
        second.write(0, b"x");
        assert_eq!(std::fs::read(directory.path().join("second")).unwrap(), b"x");
    }

    #[test]
    fn an_output_that_cannot_be_opened_is_named() {
        let outcome = SerialPort::new(&SerialOutput::File("/nonexistent/console".into()));
        let Err(error) = outcome else { panic!("opened") };
        assert!(error.to_string().contains("/nonexistent/console"));
    }
}
