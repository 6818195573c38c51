//! Counts what processes ask of this host's kernel, as `strace -f -c` does, with ptrace(2).

use std::{
    collections::BTreeSet,
    fs, io,
    mem::MaybeUninit,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// What was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// The numbers of the system calls.
    pub(super) distinct: BTreeSet<u64>,
    /// The requests of ioctl(2).
    pub(super) ioctls: BTreeSet<u64>,
    /// How many calls in all.
    pub(super) total: u64,
}

/// Traces processes until it is asked for the result. Whatever becomes of it, they go on untraced: the kernel lets go of what a thread traces
/// when it ends.
#[derive(Debug)]
pub(super) struct Tracer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Calls>>,
}

/// How long nothing may happen before it is looked for again.
const PAUSE: Duration = Duration::from_micros(100);
/// How long the processes may take to be traced.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than any sandbox has.
const MOST_THREADS: usize = 4096;

impl Tracer {
    /// Begins with these processes, all their threads, and what these make later.
    ///
    /// # Errors
    /// A process is gone, or may not be traced.
    pub(super) fn start(pids: Vec<i32>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (say, ready) = channel();
        let flag = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("tracer".into())
            .spawn(move || Tracing::default().run(&pids, &say, &flag))?;
        let tracer = Self { stop, thread };
        match wait(&ready) {
            true => Ok(tracer),
            false => match tracer.finish() {
                Err(error) => Err(error),
                Ok(_) => Err(io::Error::other("the processes ended before they were traced")),
            },
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The processes could not be traced to the end.
    pub(super) fn finish(self) -> io::Result<Calls> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| io::Error::other("the tracer died"))?
    }
}

fn wait(ready: &Receiver<()>) -> bool {
    ready.recv_timeout(PATIENCE).is_ok()
}

/// The tracer's thread.
#[derive(Debug, Default)]
struct Tracing {
    calls: Calls,
    threads: BTreeSet<i32>,
    /// Those that have not yet stopped for the first time.
    fresh: BTreeSet<i32>,
}

impl Tracing {
    fn run(mut self, pids: &[i32], ready: &Sender<()>, stop: &AtomicBool) -> io::Result<Calls> {
        self.seize(pids)?;
        let mut told = false;
        while !stop.load(Ordering::Relaxed) {
            if !told && self.fresh.is_empty() {
                told = true;
                // Whoever waited may have given up.
                let _ = ready.send(());
            }
            let mut status = 0;
            let which = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
            // SAFETY: the status lives until the call returns.
            match unsafe { libc::waitpid(-1, &raw mut status, which) } {
                0 => thread::sleep(PAUSE),
                -1 => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.raw_os_error() == Some(libc::ECHILD) => break,
                    error => return Err(error),
                },
                thread => self.event(thread, status),
            }
        }
        Ok(self.calls)
    }

    /// A thread that is made meanwhile is found in the next round, or traced by its maker's tracing already.
    fn seize(&mut self, pids: &[i32]) -> io::Result<()> {
        loop {
            let before = self.threads.len();
            for pid in pids {
                for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                    let name = entry?.file_name();
                    let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
                        continue;
                    };
                    if self.threads.len() < MOST_THREADS && self.threads.insert(thread) {
                        self.seize_one(thread)?;
                    }
                }
            }
            if self.threads.len() == before {
                return Ok(());
            }
        }
    }

    fn seize_one(&mut self, thread: i32) -> io::Result<()> {
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK;
        match ptrace(libc::PTRACE_SEIZE, thread, options as usize) {
            Ok(()) => {
                self.fresh.insert(thread);
                ptrace(libc::PTRACE_INTERRUPT, thread, 0)
            }
            // It has ended, or its maker's tracing was faster.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(_) if tracer_of(thread) == Some(own_thread()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn event(&mut self, thread: i32, status: i32) {
        if !libc::WIFSTOPPED(status) {
            self.threads.remove(&thread);
            self.fresh.remove(&thread);
            return;
        }
        self.fresh.remove(&thread);
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        let go_on = match (signal, event) {
            (signal, _) if signal == libc::SIGTRAP | 0x80 => {
                self.syscall(thread);
                ptrace(libc::PTRACE_SYSCALL, thread, 0)
            }
            // It stays stopped until somebody else lets it go on.
            (signal, libc::PTRACE_EVENT_STOP) if stops.contains(&signal) => {
                ptrace(libc::PTRACE_LISTEN, thread, 0)
            }
            (signal, 0) => {
                ptrace(libc::PTRACE_SYSCALL, thread, usize::try_from(signal).unwrap_or(0))
            }
            _ => ptrace(libc::PTRACE_SYSCALL, thread, 0),
        };
        // It was killed meanwhile; its end is the next event.
        drop(go_on);
    }

    /// A stop before or after a call; the first counts.
    fn syscall(&mut self, thread: i32) {
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        // SAFETY: the kernel writes no more than it is told that there is room for; zeros are a value of this structure of numbers.
        let info = unsafe {
            let room = size_of::<libc::ptrace_syscall_info>();
            libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, room, info.as_mut_ptr());
            info.assume_init()
        };
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return;
        }
        // SAFETY: before a call this is the part of the union that is there.
        let entry = unsafe { info.u.entry };
        self.calls.total += 1;
        self.calls.distinct.insert(entry.nr);
        if i64::try_from(entry.nr) == Ok(libc::SYS_ioctl) {
            // The kernel takes 32 bits of it.
            self.calls.ioctls.insert(entry.args[1] & 0xffff_ffff);
        }
    }
}

fn ptrace(request: libc::c_uint, thread: i32, data: usize) -> io::Result<()> {
    // SAFETY: these requests take numbers only.
    match unsafe { libc::ptrace(request, thread, 0, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn own_thread() -> i32 {
    rustix::thread::gettid().as_raw_pid()
}

fn tracer_of(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn calls_and_ioctls_of_children_are_counted_and_all_go_on() {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "echo here; read x; /bin/ls -d / ; stty size </dev/null; echo $x; read y"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "here");
        let pid = i32::try_from(shell.id()).unwrap();
        let tracer = Tracer::start(vec![pid]).unwrap();
        let mut input = shell.stdin.take().unwrap();
        input.write_all(b"go\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "/");
        assert_eq!(lines.next().unwrap().unwrap(), "go");
        let calls = tracer.finish().unwrap();
        for call in [libc::SYS_execve, libc::SYS_write, libc::SYS_openat] {
            assert!(calls.distinct.contains(&u64::try_from(call).unwrap()), "{call}: {calls:?}");
        }
        assert!(calls.ioctls.contains(&libc::TCGETS), "{calls:?}");
        assert!(calls.total > calls.distinct.len() as u64);
        // It is not traced any more, and ends by itself.
        assert_eq!(tracer_of(pid), Some(0));
        drop(input);
        assert!(!shell.wait().unwrap().success());
    }

    #[test]
    fn who_is_gone_cannot_be_traced() {
        let mut child = Command::new("/bin/true").spawn().unwrap();
        child.wait().unwrap();
        assert!(Tracer::start(vec![i32::try_from(child.id()).unwrap()]).is_err());
    }
}
