//! A scout in a container, which follows orders, and what they cost.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use bulkhead_scout::{Done, Order};
use bulkhead_vmm::api::Counters;

use crate::{
    bench::{BenchError, memory::descendants, talk::Talk},
    sandbox,
    settings::Isolation,
};

/// The words of an echo.
const WORD: &str = "there and back";

/// A scout in a running container.
#[derive(Debug)]
pub(in crate::bench) struct Follower {
    pub(in crate::bench) isolation: Isolation,
    pub(in crate::bench) talk: Talk,
    /// The process whose descendants, with itself, are all of the container's.
    pub(in crate::bench) pid: i32,
    /// The container's directory.
    pub(in crate::bench) state: PathBuf,
    /// A file with what was said where the container was made.
    pub(in crate::bench) errors: PathBuf,
}

/// What it has cost by now.
#[derive(Debug, Clone, Default)]
pub(in crate::bench) struct Spent {
    /// Time of all its processes on the host.
    processor: Duration,
    /// The VMM's counters; of a plain container nothing.
    counters: Counters,
}

/// What an order cost.
#[derive(Debug, Clone, Default)]
pub(in crate::bench) struct Cost {
    pub(in crate::bench) done: Done,
    /// By the program's clock; for streams, whose other end is here, from the order to its answer by the host's.
    pub(in crate::bench) seconds: f64,
    pub(in crate::bench) processor: Duration,
    pub(in crate::bench) instructions: u64,
    /// Requests to the block devices, to the file server, and packets of vsock.
    pub(in crate::bench) requests: u64,
}

impl Follower {
    /// Waits until it answers an order to do nothing.
    ///
    /// # Errors
    /// [`BenchError`].
    pub(in crate::bench) fn greet(&mut self) -> Result<(), BenchError> {
        self.talk.say(&self.line(&Order::Nothing)?)?;
        self.talk.hear().map(drop).map_err(|error| self.told(error))
    }

    /// Has an order followed, and sees what that costs; of requests those that `area` counts.
    ///
    /// # Errors
    /// [`BenchError`]; also when the scout could not do it.
    pub(in crate::bench) fn follow(&mut self, order: &Order, area: Of) -> Result<Cost, BenchError> {
        let before = self.spent()?;
        let begin = Instant::now();
        self.talk.say(&self.line(order)?)?;
        match order {
            Order::Output { bytes } => self.talk.drop_bytes(*bytes)?,
            Order::Input { bytes } => self.send(*bytes)?,
            Order::Echo { count } => {
                for _ in 0..*count {
                    self.talk.say(WORD)?;
                    self.talk.hear()?;
                }
            }
            _ => {}
        }
        let answer = self.talk.hear().map_err(|error| self.told(error))?;
        let seconds = begin.elapsed().as_secs_f64();
        let after = self.spent()?;
        let done: Done = serde_json::from_str(&answer)
            .map_err(|error| self.invalid(format!("it answered {answer:?}: {error}")))?;
        if let Some(error) = done.error {
            return Err(self.invalid(format!("{order:?}: {error}")));
        }
        let more =
            |get: fn(&Counters) -> u64| get(&after.counters).saturating_sub(get(&before.counters));
        let streams =
            matches!(order, Order::Output { .. } | Order::Input { .. } | Order::Echo { .. });
        let inside = Duration::from_nanos(done.nanoseconds).as_secs_f64();
        Ok(Cost {
            seconds: if streams { seconds } else { inside },
            done,
            processor: after.processor.saturating_sub(before.processor),
            instructions: more(|counters| counters.instructions),
            requests: more(area),
        })
    }

    /// In pieces, as pipes take them.
    fn send(&mut self, mut bytes: u64) -> Result<(), BenchError> {
        let piece = [b'.'; 64 << 10];
        while bytes > 0 {
            let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(piece.len());
            self.talk.send(piece.get(..length).unwrap_or_default())?;
            bytes -= length as u64;
        }
        Ok(())
    }

    fn spent(&self) -> Result<Spent, BenchError> {
        let counters = match self.isolation {
            Isolation::Host => Counters::default(),
            Isolation::Vm => sandbox::vm::counters(&self.state)
                .map_err(|error| self.invalid(format!("its machine's counters: {error}")))?,
        };
        let all = descendants(self.pid).into_iter().chain([self.pid]);
        Ok(Spent { processor: all.map(processor_time).sum(), counters })
    }

    fn line(&self, order: &Order) -> Result<String, BenchError> {
        serde_json::to_string(order).map_err(|error| self.invalid(error.to_string()))
    }

    pub(in crate::bench) fn invalid(&self, why: String) -> BenchError {
        BenchError::Invalid { runtime: self.isolation.name().into(), why }
    }

    /// With what was said there, if anything was.
    fn told(&self, error: BenchError) -> BenchError {
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        match said.lines().next_back() {
            Some(line) if matches!(error, BenchError::Invalid { .. }) => {
                self.invalid(line.to_owned())
            }
            _ => error,
        }
    }
}

/// Which requests count.
pub(in crate::bench) type Of = fn(&Counters) -> u64;

/// The time that a process has run, in nanoseconds of its schedstat (Documentation/scheduler/sched-stats.rst). Of a process that is gone none.
fn processor_time(pid: i32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let run = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(run.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_run() {
        let own = std::process::id().cast_signed();
        assert!(processor_time(own) > Duration::ZERO);
        assert_eq!(processor_time(i32::MAX), Duration::ZERO);
    }
}
