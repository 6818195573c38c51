//! Processes of a bench: children that were started and those that lost their parent, which this process adopts; how long they
//! may take, and what they cost.

use std::{
    io,
    mem::MaybeUninit,
    sync::atomic::{AtomicI32, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, set_child_subreaper},
};

use super::BenchError;

/// How often a wait looks whether the user wants no more; a signal wakes it anyway.
const LOOK: Duration = Duration::from_millis(200);
/// How long processes may take to end that have no reason to go on.
const PATIENCE: Duration = Duration::from_secs(10);

/// The signal that asked this process to end, or 0.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

/// From now on this process adopts its descendants that lose their parent, as conmon and containerd's shim do, and signals that would
/// end it are noted instead.
///
/// # Errors
/// That of prctl(2) or sigaction(2).
pub fn prepare() -> Result<(), BenchError> {
    set_child_subreaper(Some(getpid())).map_err(BenchError::host("adopt processes"))?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let note = move || INTERRUPTED.store(signal, Ordering::Relaxed);
        // SAFETY: the handler stores a number and does nothing else.
        let registered = unsafe { signal_hook::low_level::register(signal, note) };
        registered.map_err(BenchError::host("catch signals"))?;
    }
    Ok(())
}

/// An error once the user wants no more.
///
/// # Errors
/// [`BenchError::Interrupted`].
pub fn check_interrupted() -> Result<(), BenchError> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(BenchError::Interrupted(signal)),
    }
}

/// How a process ended, and what it and those that it waited for cost.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The exit code, 128 and the signal's number for a signal.
    pub code: i32,
    /// User and system time. The kernel counts it in nanoseconds and tells microseconds.
    pub processor: Duration,
}

/// Why a wait ended without the process.
#[derive(Debug)]
pub enum Unended {
    /// The time is over.
    Timeout,
    /// The user wants no more.
    Interrupted(i32),
    /// It is no child of this process.
    Host(io::Error),
}

/// Waits for the end of a child, own or adopted.
///
/// # Errors
/// [`Unended`]; the child is still there then.
pub fn wait(pid: Pid, limit: Duration) -> Result<Ended, Unended> {
    wait_while(pid, limit, || match INTERRUPTED.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(Unended::Interrupted(signal)),
    })
}

/// The same for work that is done whatever the user wants.
///
/// # Errors
/// As above.
pub fn wait_for(pid: Pid, limit: Duration) -> Result<Ended, Unended> {
    wait_while(pid, limit, || Ok(()))
}

fn wait_while(
    pid: Pid,
    limit: Duration,
    go_on: impl Fn() -> Result<(), Unended>,
) -> Result<Ended, Unended> {
    let deadline = Instant::now() + limit;
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Unended::Host(e.into()))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let pause =
            Timespec::try_from(left.min(LOOK)).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&pause)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return reap(pid.as_raw_pid(), 0).map(|ended| ended.1).map_err(Unended::Host),
            Err(error) => return Err(Unended::Host(error.into())),
        }
        go_on()?;
        if Instant::now() >= deadline {
            return Err(Unended::Timeout);
        }
    }
}

/// wait4(2): which child ended, and how. `ErrorKind::WouldBlock` when `flags` has `WNOHANG` and none has.
fn reap(pid: i32, flags: i32) -> io::Result<(i32, Ended)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let which = loop {
        // SAFETY: both are places for what the call writes.
        match unsafe { libc::wait4(pid, &raw mut status, flags, usage.as_mut_ptr()) } {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            0 => return Err(io::ErrorKind::WouldBlock.into()),
            which => break which,
        }
    };
    // SAFETY: all of it is numbers, of which all bytes were initialized.
    let usage = unsafe { usage.assume_init() };
    let code = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    Ok((which, Ended { code, processor: duration(usage.ru_utime) + duration(usage.ru_stime) }))
}

fn duration(time: libc::timeval) -> Duration {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Duration::from_secs(number(time.tv_sec)) + Duration::from_micros(number(time.tv_usec))
}

/// Waits for all other children, which have no reason to live on, and returns what they cost; `None` when some do live on.
#[must_use]
pub fn reap_rest() -> Option<Duration> {
    let deadline = Instant::now() + PATIENCE;
    let mut sum = Duration::ZERO;
    loop {
        match reap(-1, libc::WNOHANG) {
            Ok((_, ended)) => sum += ended.processor,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            // There are none.
            Err(_) => return Some(sum),
        }
    }
}

/// Kills all descendants of this process and reaps them: none of them may outlive a bench.
pub fn kill_rest() {
    let own = getpid().as_raw_pid();
    for _ in 0..50 {
        for pid in super::memory::descendants(own).into_iter().filter_map(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        loop {
            match reap(-1, libc::WNOHANG) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn start(script: &str) -> Pid {
        #[allow(clippy::zombie_processes, reason = "the tests wait for it by its pid")]
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
    }

    #[test]
    fn a_child_is_waited_for_with_its_cost() {
        let long = Duration::from_secs(60);
        let ended = wait(start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 7"), long);
        let ended = ended.unwrap();
        assert_eq!(ended.code, 7);
        assert!(ended.processor > Duration::from_micros(100), "{ended:?}");
        assert_eq!(wait(start("kill -9 $$"), long).unwrap().code, 137);
    }

    #[test]
    fn a_wait_has_a_limit() {
        let pid = start("exec sleep 1000");
        assert!(matches!(wait(pid, Duration::from_millis(20)), Err(Unended::Timeout)));
        kill_process(pid, Signal::KILL).unwrap();
        assert_eq!(wait(pid, Duration::from_secs(60)).unwrap().code, 137);
        assert!(matches!(wait(pid, Duration::ZERO), Err(Unended::Host(_))));
    }
}
