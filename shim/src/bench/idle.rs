//! A container whose program waits: what it holds and what it costs while it does nothing.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    BenchError,
    memory::{Memory, Processes},
    process,
    report::{Group, Plot, Quantity, Unit},
    runtime::{Runtime, Slot},
    stamp::Stamp,
};

const PSS: Quantity = Quantity::lower("pss", "memory of all processes (PSS)", Unit::Bytes);
const VMM: Quantity = Quantity::lower("pss-vmm", "… the VMM with its guest", Unit::Bytes);
const FIRST: Quantity =
    Quantity::lower("pss-first", "… the monitor, or the program itself", Unit::Bytes);
const PRIVATE: Quantity =
    Quantity::lower("private", "private memory: written, and shared with nobody", Unit::Bytes);
const TOUCHED: Quantity =
    Quantity::lower("guest-touched", "guest memory that was touched", Unit::Bytes);
const OWN: Quantity = Quantity::lower("guest-private", "guest memory that is its own", Unit::Bytes);
const IDLE: Quantity = Quantity::lower("idle-processor", "processor time while idle", Unit::Share);
/// Processor time is looked at for so long.
const WINDOW: Duration = Duration::from_secs(1);

/// An idle container.
#[derive(Debug)]
pub struct Idle<'a> {
    runtime: &'a Runtime,
    slot: Slot,
    pid: Pid,
}

/// What one was seen to hold and cost.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// What it holds.
    pub memory: Memory,
    /// The part of a processor that it takes.
    pub share: f64,
}

impl<'a> Idle<'a> {
    /// Starts one; `slot` has a bundle whose program holds. Returns when the program waits.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn start(runtime: &'a Runtime, slot: &Slot) -> Result<Self, BenchError> {
        process::check_interrupted()?;
        let (pid, _) = runtime.create(slot)?;
        runtime.verb("start", slot, &[])?;
        let deadline = Instant::now() + runtime.limit;
        while Stamp::find(&slot.output()).is_none() {
            process::check_interrupted()?;
            if Instant::now() >= deadline {
                return Err(runtime.invalid("its program did not say that it waits"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { runtime, slot: slot.clone(), pid })
    }

    /// Leaves it alone for a while, then looks at it for a second.
    ///
    /// # Errors
    /// [`BenchError::Interrupted`].
    pub fn measure(&self, settle: Duration) -> Result<Sample, BenchError> {
        pause(settle)?;
        let samples = Self::measure_all(std::slice::from_ref(self), WINDOW)?;
        samples.into_iter().next().ok_or_else(|| self.runtime.invalid("it is gone"))
    }

    /// Looks at several for so long.
    ///
    /// # Errors
    /// [`BenchError::Interrupted`].
    pub fn measure_all(all: &[Self], window: Duration) -> Result<Vec<Sample>, BenchError> {
        // Of many containers, each look at all processes takes long.
        let processes = Processes::now();
        let look = |one: &Self| (one.processor(&processes), Instant::now());
        let before: Vec<_> = all.iter().map(look).collect();
        pause(window)?;
        let shares: Vec<f64> = all
            .iter()
            .zip(before)
            .map(|(one, (before, begin))| {
                let (after, now) = look(one);
                let took = after.saturating_sub(before);
                took.as_secs_f64() / now.duration_since(begin).as_secs_f64()
            })
            .collect();
        let memory = all.iter().map(|one| Memory::of(one.pid.as_raw_pid(), &processes));
        Ok(memory.zip(shares).map(|(memory, share)| Sample { memory, share }).collect())
    }

    /// Processor time of all its processes so far.
    #[must_use]
    pub fn processor(&self, processes: &Processes) -> Duration {
        let first = self.pid.as_raw_pid();
        [first].into_iter().chain(processes.below(first)).map(process_time).sum()
    }

    /// Kills and removes it. `alone`: nothing else of this bench lives.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn end(self, alone: bool) -> Result<(), BenchError> {
        self.runtime.verb("kill", &self.slot, &["KILL"])?;
        self.remove(alone)
    }

    /// Kills the process that stands for it, and with that all of it.
    pub fn kill(&self) {
        // Whatever has ended is not there.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Removes what was killed. `alone`: nothing else of this bench lives.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn remove(self, alone: bool) -> Result<(), BenchError> {
        self.runtime.wait(self.pid, "the death of the program")?;
        self.runtime.verb("delete", &self.slot, &[])?;
        if alone && process::reap_rest().is_none() {
            return Err(self.runtime.invalid("it left processes behind"));
        }
        Ok(())
    }

    /// A group for samples.
    #[must_use]
    pub fn group(key: &str, title: &str) -> Group {
        let about = "PSS divides what several processes share among them (/proc/PID/smaps_rollup); all processes of the container on the host are counted. Guest memory is the VMM's mapping of it: \
                     touched is what is there, its own is what no other clone of its template has. Processor time is that of all their threads (/proc/PID/task/TID/schedstat), a while after the start.";
        let mut group = Group::new(key, title, about);
        let measures = [PSS, PRIVATE].map(|quantity| quantity.key.to_owned()).into();
        group.plots = vec![Plot::Bars { title: "Memory".into(), measures }];
        group
    }
}

impl Sample {
    /// Adds it.
    pub fn add_to(&self, group: &mut Group, subject: &str) {
        #[allow(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
        let mut add = |quantity: &Quantity, bytes: u64| group.add(quantity, subject, bytes as f64);
        let memory = &self.memory;
        add(&PSS, memory.pss);
        if memory.vmm > 0 {
            add(&VMM, memory.vmm);
        }
        add(&FIRST, memory.first);
        add(&PRIVATE, memory.private);
        if memory.vmm > 0 {
            add(&TOUCHED, memory.guest_touched);
            add(&OWN, memory.guest_private);
        }
        group.add(&IDLE, subject, self.share);
    }
}

/// Waits, but not longer than the user wants.
pub(super) fn pause(length: Duration) -> Result<(), BenchError> {
    let end = Instant::now() + length;
    loop {
        process::check_interrupted()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// What the threads of a process have had of the processors, exactly: the first number is nanoseconds.
fn process_time(pid: i32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let times = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    });
    times.sum()
}
