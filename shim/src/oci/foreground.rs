//! Waits for a process in the foreground: passes its signals on, joins its terminal to this process's, and ends with its
//! code.

use std::{
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus},
    termios::Winsize,
};

use super::signals::Signals;
use crate::stdio::{RawMode, window_size};

const CHUNK: usize = 16 << 10;

/// A terminal's master, and what waits to be written to it.
struct Terminal {
    master: OwnedFd,
    to: Vec<u8>,
    /// Standard input has not ended.
    input: bool,
    /// The other side is open.
    open: bool,
    _raw: Option<RawMode>,
}

/// Waits for `child`, with its terminal if it has one; `forward` passes a signal on.
pub(super) fn wait(
    child: Pid,
    master: Option<OwnedFd>,
    signals: &Signals,
    mut forward: impl FnMut(i32),
) -> io::Result<u8> {
    let mut terminal = master.map(Terminal::new).transpose()?;
    loop {
        // A child that ended before signals were blocked has left no signal.
        if let Some(code) = reap(child)? {
            if let Some(terminal) = &mut terminal {
                terminal.drain();
            }
            return Ok(code);
        }
        ready(signals, terminal.as_mut())?;
        while let Some(signal) = signals.take() {
            match signal {
                libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE => {}
                libc::SIGWINCH => {
                    if let Some(terminal) = &terminal {
                        terminal.resize();
                    }
                }
                signal => forward(signal),
            }
        }
    }
}

/// The code of the child when it has ended; other children, which were given to this process, are only reaped.
fn reap(child: Pid) -> io::Result<Option<u8>> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => return Ok(Some(code(status))),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code & 0xff).unwrap_or(255)
}

/// Waits until something can be done, and does what is the terminal's.
fn ready(signals: &Signals, terminal: Option<&mut Terminal>) -> io::Result<()> {
    let wait = |fds: &mut [PollFd<'_>]| match rustix::event::poll(fds, None) {
        Err(Errno::INTR) => Ok(0),
        polled => polled,
    };
    let news = PollFd::new(signals, PollFlags::IN);
    let Some(terminal) = terminal.filter(|terminal| terminal.open) else {
        wait(&mut [news])?;
        return Ok(());
    };
    let stdin = io::stdin();
    let wants = |flag, wanted: bool| if wanted { flag } else { PollFlags::empty() };
    let (input, output) = {
        let of_master = PollFlags::IN | wants(PollFlags::OUT, !terminal.to.is_empty());
        let mut fds = vec![news, PollFd::from_borrowed_fd(terminal.master.as_fd(), of_master)];
        if terminal.input && terminal.to.is_empty() {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        wait(&mut fds)?;
        (fds.get(2).is_some_and(|fd| !fd.revents().is_empty()), fds[1].revents())
    };
    if input {
        terminal.read_input();
    }
    if !terminal.to.is_empty() {
        terminal.write();
    }
    if output.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
        terminal.copy_output();
    }
    Ok(())
}

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let raw = RawMode::enter()?;
        let terminal = Self { master, to: Vec::new(), input: true, open: true, _raw: raw };
        terminal.resize();
        Ok(terminal)
    }

    fn resize(&self) {
        if let Some(size) = window_size() {
            let size =
                Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
            // Of a terminal whose other side is gone, nobody sees the size.
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    fn read_input(&mut self) {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(io::stdin(), &mut chunk) {
            Ok(0) => self.input = false,
            Ok(count) => self.to.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.input = false,
        }
    }

    fn write(&mut self) {
        match rustix::io::write(&self.master, &self.to) {
            Ok(count) => drop(self.to.drain(..count)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.to.clear(),
        }
    }

    /// False: there is no more for now.
    fn copy_output(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(&self.master, &mut chunk) {
            Ok(count) if count > 0 => {
                let mut out = io::stdout().lock();
                let chunk = chunk.get(..count).unwrap_or_default();
                // Where nobody reads, the program goes on as on a terminal that is off.
                let _ = out.write_all(chunk).and_then(|()| out.flush());
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // The last process that had the other side open has closed it (EIO).
            _ => {
                self.open = false;
                false
            }
        }
    }

    /// What was written before the process ended.
    fn drain(&mut self) {
        while self.open && self.copy_output() {}
    }
}
