//! Where vCPU threads ask whether to run, and where the event loop makes them pause, go on, and stop.
//!
//! ```text
//!            pause             resume
//!  running ---------> paused ---------> running        stop, from either ---> stopped
//! ```

use std::{
    os::unix::thread::JoinHandleExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crate::vcpu::kick_signal;

/// How long a thread may take to notice a kick before it gets another.
const URGE_AGAIN: Duration = Duration::from_millis(20);

/// What the threads are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Run,
    Pause,
    Stop,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    /// Threads that wait in [`Gate::pass`].
    parked: usize,
    /// Threads that have not left.
    present: usize,
}

/// The gate of one machine.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// A gate, open, for `threads` threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let state = State { wanted: Wanted::Run, parked: 0, present: threads };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// For a vCPU's thread, between two instructions of the guest: waits while the machine is paused. False: stop.
    #[must_use]
    pub fn pass(&self) -> bool {
        let mut state = self.lock();
        if state.wanted == Wanted::Pause {
            state.parked += 1;
            self.changed.notify_all();
            while state.wanted == Wanted::Pause {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.parked -= 1;
        }
        state.wanted == Wanted::Run
    }

    /// A vCPU's thread ends.
    pub fn leave(&self) {
        self.lock().present -= 1;
        self.changed.notify_all();
    }

    /// Stop is final.
    fn set(&self, wanted: Wanted) {
        let mut state = self.lock();
        if state.wanted != Wanted::Stop {
            state.wanted = wanted;
            self.changed.notify_all();
        }
    }

    /// Waits until `reached`, and calls `urge` first and then again and again: a thread may be about to wait for the reader of
    /// its console, where an earlier kick has no effect.
    fn wait_until(&self, reached: impl Fn(&State) -> bool, urge: impl Fn()) {
        let mut state = self.lock();
        while !reached(&state) {
            urge();
            state = self
                .changed
                .wait_timeout(state, URGE_AGAIN)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running threads. Dropping this stops them.
#[derive(Debug)]
pub struct Threads {
    gate: Arc<Gate>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Threads that ask `gate`.
    #[must_use]
    pub fn new(gate: Arc<Gate>, handles: Vec<JoinHandle<()>>) -> Self {
        Self { gate, handles }
    }

    /// Stops the guest between two instructions; returns when no vCPU runs any more. Nothing to do when it is paused already.
    pub fn pause(&self) {
        self.gate.set(Wanted::Pause);
        self.gate.wait_until(|state| state.parked >= state.present, || self.kick());
    }

    /// Ends the guest between two instructions; returns when no vCPU runs any more.
    pub fn stop(&self) {
        self.gate.set(Wanted::Stop);
        self.gate.wait_until(|state| state.present == 0, || self.kick());
    }

    /// Lets the guest go on. Nothing to do when it runs.
    pub fn resume(&self) {
        self.gate.set(Wanted::Run);
    }

    fn kick(&self) {
        for handle in &self.handles {
            // SAFETY: the thread was not joined, so that its pthread_t is valid; the signal has a handler.
            unsafe { libc::pthread_kill(handle.as_pthread_t(), kick_signal()) };
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
        for handle in self.handles.drain(..) {
            // A thread that panicked has ended too.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use super::*;

    fn counting(threads: usize) -> (Threads, Arc<AtomicU64>) {
        crate::vcpu::install_kick_handler().unwrap();
        let gate = Arc::new(Gate::new(threads));
        let turns = Arc::new(AtomicU64::new(0));
        let handles = (0..threads)
            .map(|_| {
                let (gate, turns) = (Arc::clone(&gate), Arc::clone(&turns));
                thread::spawn(move || {
                    while gate.pass() {
                        turns.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                    }
                    gate.leave();
                })
            })
            .collect();
        (Threads::new(gate, handles), turns)
    }

    #[test]
    fn nothing_runs_while_paused_and_it_goes_on_after() {
        let (threads, turns) = counting(3);
        threads.pause();
        let before = turns.load(Ordering::SeqCst);
        threads.pause();
        thread::yield_now();
        assert_eq!(turns.load(Ordering::SeqCst), before);
        threads.resume();
        while turns.load(Ordering::SeqCst) == before {
            thread::yield_now();
        }
    }

    #[test]
    fn dropping_stops_running_and_paused_threads() {
        let (threads, _) = counting(2);
        drop(threads);
        let (threads, _) = counting(2);
        threads.pause();
        drop(threads);
    }
}
