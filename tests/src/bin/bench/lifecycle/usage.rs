//! What processes of this one cost, and those that lost their parent. As a subreaper this process inherits containers whose
//! runtime has ended, as conmon and containerd's shim do.

use std::{mem::MaybeUninit, time::Duration};

use rustix::process::{Pid, WaitOptions, WaitStatus, getpid, set_child_subreaper, waitpid};

use crate::Reason;

/// Makes this process the parent of its descendants that lose theirs.
pub(super) fn adopt() -> Result<(), Reason> {
    set_child_subreaper(Some(getpid())).map_err(|error| format!("prctl: {error}"))
}

/// Waits for the end of a child, adopted or own.
pub(super) fn wait(pid: Pid) -> Result<WaitStatus, Reason> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("process {pid}: {error}")),
        }
    }
}

/// User and system time of all children that were waited for, and theirs.
pub(super) fn processor_time() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call writes one `rusage` there.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    // SAFETY: all of it is numbers, of which all bytes were initialized.
    let usage = unsafe { usage.assume_init() };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

fn duration(time: libc::timeval) -> Duration {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Duration::from_secs(number(time.tv_sec)) + Duration::from_micros(number(time.tv_usec))
}
