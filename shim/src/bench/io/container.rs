//! A container whose scout follows orders, made with `bulkhead run` so that its image is a disk where it is one for everybody.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bulkhead_scout::{Done, Order};
use bulkhead_vmm::api::Counters;

use super::steps::SHARE;
use crate::{
    bench::{BenchError, memory::descendants, talk::Talk},
    container::Registry,
    sandbox,
    settings::{Isolation, Settings},
};

/// Where the scout's directory is in the container.
const PLACE: &str = "/.bulkhead";
/// The words of an echo.
const WORD: &str = "there and back";

/// A running container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) isolation: Isolation,
    talk: Talk,
    child: Child,
    name: String,
    program: PathBuf,
    state: PathBuf,
    errors: PathBuf,
}

/// What it has cost by now.
#[derive(Debug, Clone, Default)]
pub(super) struct Spent {
    /// Time of all its processes on the host.
    processor: Duration,
    /// The VMM's counters; of a plain container nothing.
    counters: Counters,
}

/// What an order cost.
#[derive(Debug, Clone, Default)]
pub(super) struct Cost {
    pub(super) done: Done,
    /// By the program's clock; for streams, whose other end is here, from the order to its answer by the host's.
    pub(super) seconds: f64,
    pub(super) processor: Duration,
    pub(super) instructions: u64,
    /// Requests to the block devices, to the file server, and packets of vsock.
    pub(super) requests: u64,
}

/// What a container is made of.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) settings: &'a Settings,
    pub(super) image: &'a str,
    /// The directory with the scout, as `scout`.
    pub(super) scout: &'a Path,
    /// The directory with one that is shared for each isolation.
    pub(super) share: &'a Path,
    /// The bench's own files.
    pub(super) files: &'a Path,
    pub(super) limit: Duration,
}

impl Container {
    /// Starts it.
    ///
    /// # Errors
    /// [`BenchError`].
    pub(super) fn start(making: &Making<'_>, isolation: Isolation) -> Result<Self, BenchError> {
        let name = format!("bench-io-{}-{isolation}", std::process::id());
        let program = std::env::current_exe().map_err(BenchError::host("find this program"))?;
        let errors = making.files.join(format!("errors-{isolation}"));
        let log = fs::File::create(&errors).map_err(BenchError::host("make a log"))?;
        let (talk, input, output) = Talk::new(isolation.name(), making.limit)?;
        let volume = |host: &Path, place: &str, mode: &str| {
            format!("--volume={}:{place}:{mode}", host.display())
        };
        // No step is to pay for what a clone takes over of its template when it first needs it.
        let own_boot: &[&str] = match isolation {
            Isolation::Vm => &["--template", "never"],
            Isolation::Host => &[],
        };
        let child = Command::new(&program)
            .args(["run", "--rm", "--interactive", "--name", &name])
            .args(["--isolation", isolation.name(), "--user", "0", "--workdir", "/"])
            .args(own_boot)
            .arg(volume(making.scout, PLACE, "ro"))
            .arg(volume(&making.share.join(isolation.name()), SHARE, "rw"))
            .args(["--entrypoint", &format!("{PLACE}/scout"), making.image, "io"])
            .stdin(input)
            .stdout(output)
            .stderr(log)
            // A terminal's Ctrl-C is for the bench to act on.
            .process_group(0)
            .spawn()
            .map_err(|source| BenchError::Program {
                what: "bulkhead".into(),
                path: program.clone(),
                source,
            })?;
        let mut container =
            Self { isolation, talk, child, name, program, state: PathBuf::new(), errors };
        // The first answer says that it runs.
        container.talk.say(&container.line(&Order::Nothing)?)?;
        container.talk.hear().map_err(|error| container.told(error))?;
        let registry = Registry::open(making.settings)?;
        let place = registry.find(&container.name)?;
        container.state = registry.lifecycle().directory(&place.id);
        Ok(container)
    }

    /// Has an order followed, and sees what that costs; of requests those that `area` counts.
    ///
    /// # Errors
    /// [`BenchError`]; also when the scout could not do it.
    pub(super) fn follow(&mut self, order: &Order, area: Of) -> Result<Cost, BenchError> {
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
        let first = self.child.id().cast_signed();
        let all = descendants(first).into_iter().chain([first]);
        Ok(Spent { processor: all.map(processor_time).sum(), counters })
    }

    fn line(&self, order: &Order) -> Result<String, BenchError> {
        serde_json::to_string(order).map_err(|error| self.invalid(error.to_string()))
    }

    fn invalid(&self, why: String) -> BenchError {
        BenchError::Invalid { runtime: self.isolation.name().into(), why }
    }

    /// With what `bulkhead run` said, when it said something.
    fn told(&self, error: BenchError) -> BenchError {
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        match said.lines().next_back() {
            Some(line) if matches!(error, BenchError::Invalid { .. }) => {
                self.invalid(line.to_owned())
            }
            _ => error,
        }
    }

    /// Lets it end.
    ///
    /// # Errors
    /// It did not end well.
    pub(super) fn end(mut self) -> Result<(), BenchError> {
        self.talk.close();
        let status = self.child.wait().map_err(BenchError::host("wait for bulkhead run"))?;
        if status.success() { Ok(()) } else { Err(self.invalid(format!("it ended with {status}"))) }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // What cannot be removed so goes with its client, which has --rm.
        let mut command = Command::new(&self.program);
        command.args(["rm", "--force", &self.name]).stdin(Stdio::null());
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which requests count.
pub(super) type Of = fn(&Counters) -> u64;

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
