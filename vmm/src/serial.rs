//! The serial port, for debugging: what the guest writes to COM1 goes to a file or to standard output. It has no input.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
};

use vm_superio::{Serial, Trigger, serial::NoEvents};
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

/// The serial port's registers.
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

    /// Reads register `offset`.
    pub(crate) fn read(&self, offset: u8) -> u8 {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner).read(offset)
    }

    /// Writes each byte to register `offset`. A byte that the output does not take is lost, as on a line that nobody reads.
    pub(crate) fn write(&self, offset: u8, data: &[u8]) {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
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
    fn an_output_that_cannot_be_opened_is_named() {
        let outcome = SerialPort::new(&SerialOutput::File("/nonexistent/console".into()));
        let Err(error) = outcome else { panic!("opened") };
        assert!(error.to_string().contains("/nonexistent/console"));
    }
}
