//! A command that runs: its output is collected while it comes, so that a test can wait for words of it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::Outcome;

/// A guest boots in seconds on a good day; what takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was read from a stream so far, and whether it has ended.
#[derive(Debug, Default)]
pub(super) struct Collected {
    state: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Collected {
    pub(super) fn reading(mut from: impl Read + Send + 'static) -> (Arc<Self>, JoinHandle<()>) {
        let collected = Arc::new(Self::default());
        let writer = Arc::clone(&collected);
        let thread = thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                // A pseudo-terminal whose other side is closed fails instead of ending.
                let length = from.read(&mut chunk).unwrap_or(0);
                let mut state = writer.lock();
                state.0.extend_from_slice(&chunk[..length]);
                state.1 = length == 0;
                writer.changed.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
        (collected, thread)
    }

    /// A test that failed while it held the lock is no reason for more messages.
    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `text` is there, counted from byte `from`; returns where it ends.
    #[track_caller]
    pub(super) fn wait_for(&self, text: &str, from: usize) -> usize {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            let new = state.0.get(from..).unwrap_or_default();
            if let Some(at) = new.windows(text.len()).position(|part| part == text.as_bytes()) {
                return from + at + text.len();
            }
            let so_far = || String::from_utf8_lossy(&state.0).into_owned();
            assert!(!state.1, "it ended without \"{text}\":\n{}", so_far());
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no \"{text}\" in {PATIENCE:?}:\n{}", so_far());
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.lock().0.clone()
    }
}

/// A command that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Collected>,
    stderr: Arc<Collected>,
    readers: Vec<JoinHandle<()>>,
    seen: usize,
    /// Held while a machine may run, so that no more run at once than the host has processors.
    _slot: Option<File>,
}

impl Running {
    pub(super) fn start(mut command: Command, slot: Option<File>) -> Self {
        let words = command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
        let text = words.join(" ");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, out) = Collected::reading(child.stdout.take().unwrap());
        let (stderr, error) = Collected::reading(child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        let readers = vec![out, error];
        Self { command: text, child, stdin, stdout, stderr, readers, seen: 0, _slot: slot }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its standard output has `text`, after what was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.seen = self.stdout.wait_for(text, self.seen);
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("it reads its standard input");
    }

    /// Writes all of this to its standard input and closes that, from a thread of its own.
    pub fn feed(&mut self, bytes: Vec<u8>) {
        let mut stdin = self.stdin.take().expect("standard input is open");
        // A program that ends before it has read everything is no error of the writer.
        thread::spawn(move || drop(stdin.write_all(&bytes)));
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal_process(self.child.id(), signal);
    }

    /// Waits for its end, and for the ends of its output. Its standard input stays as it is.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status;
            }
            if Instant::now() > deadline {
                let text =
                    |stream: &Collected| String::from_utf8_lossy(&stream.bytes()).into_owned();
                let (out, error) = (text(&self.stdout), text(&self.stderr));
                panic!("`{}` hangs\n--- stdout\n{out}\n--- stderr\n{error}", self.command);
            }
            thread::sleep(Duration::from_millis(10));
        };
        for reader in self.readers.drain(..) {
            while !reader.is_finished() {
                let held = format!(
                    "`{}` has ended ({status}), but something holds its output open",
                    self.command
                );
                assert!(Instant::now() < deadline, "{held}");
                thread::sleep(Duration::from_millis(2));
            }
            reader.join().unwrap();
        }
        let (stdout, stderr) = (self.stdout.bytes(), self.stderr.bytes());
        Outcome { command: self.command.clone(), status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// KiB of a process's memory that are its own, not a file's (proc(5), `RssAnon`).
#[must_use]
pub fn own_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0").trim();
    line.trim_end_matches(" kB").parse().expect("a number")
}

/// Sends a signal to a process.
pub fn signal_process(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid is not 0");
    // It may have ended already.
    let _ = kill_process(pid, signal);
}

/// Ends a daemon in good order, or kills it when it takes too long.
pub fn end_daemon(daemon: &mut Child) {
    signal_process(daemon.id(), Signal::TERM);
    for _ in 0..300 {
        if daemon.try_wait().is_ok_and(|status| status.is_some()) {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    // It may have ended, which is what is wanted.
    let _ = daemon.kill();
    let _ = daemon.wait();
}
