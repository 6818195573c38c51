//! Children that do one thing and end.

use std::{io, time::Duration};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};

use crate::kernel::Result;

/// Does something in a child, for what this process must not keep.
pub(crate) fn run(act: impl FnOnce() -> Result<()>) -> Result<()> {
    // SAFETY: this process has one thread, so the child finds nothing half done.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = act().map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(code) }
        }
        pid => match wait(pid)? {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Err(io::Error::from_raw_os_error(libc::EIO)),
        },
    }
}

/// Does something while there is a child that waits, whose pid it gets.
pub(crate) fn neighbour(act: impl FnOnce(u32) -> Result<()>) -> Result<()> {
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            std::thread::sleep(Duration::from_secs(30));
            // SAFETY: as above.
            unsafe { libc::_exit(0) }
        }
        number => {
            let done = act(number.unsigned_abs());
            if let Some(pid) = Pid::from_raw(number) {
                // It is a child that nobody has waited for.
                let _ = kill_process(pid, Signal::KILL);
            }
            wait(number)?;
            done
        }
    }
}

/// The code of a child; `None` when a signal ended it.
fn wait(pid: i32) -> Result<Option<i32>> {
    loop {
        match waitpid(Pid::from_raw(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return Ok(ended?.and_then(|(_, status)| status.exit_status())),
        }
    }
}

/// A pipe's two ends, which no other program gets.
pub(crate) fn pipe() -> Result<(std::fs::File, std::fs::File)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((read.into(), write.into()))
}
