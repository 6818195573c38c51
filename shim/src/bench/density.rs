//! `bench density`: idle containers, one after the other, until a limit or a refusal; what each holds and costs, and what one more costs.

use std::{thread, time::Duration};

use super::{
    BenchError, host,
    idle::{Idle, pause},
    progress::Steps,
    report::{Group, Kind as ReportKind, Plot, Quantity, Report, Unit},
    runtime::{Runtime, Slot},
    stage::{Mode, Stage},
    startup::milliseconds,
    stats::count,
};
use crate::timeline::now;

const TAKEN: Quantity =
    Quantity::lower("taken", "memory that the host has less, so far", Unit::Bytes);
const START: Quantity =
    Quantity::lower("start", "request until the program waits", Unit::Milliseconds);
/// The host keeps this part of its memory: one that has none left kills processes, and not only ours.
const RESERVE: u64 = 20;

/// What is wanted.
#[derive(Debug)]
pub struct Options {
    /// An image's name or source.
    pub image: String,
    /// What kinds of containers, one after the other.
    pub modes: Vec<Mode>,
    /// The most containers of each.
    pub most: u32,
    /// Bytes that they may take of the host's memory; as much as is safe, when absent.
    pub memory: Option<u64>,
    /// So many are started side by side.
    pub at_once: u16,
    /// They do nothing for so long before they are looked at.
    pub settle: Duration,
    /// Their processor time is looked at for so long.
    pub watch: Duration,
    /// How long a verb may take.
    pub limit: Duration,
}

/// Measures.
///
/// # Errors
/// [`BenchError`]; everything that was started is removed.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let mut stage = Stage::open(&options.image, options.limit)?;
    let runtimes: Result<Vec<Runtime>, BenchError> =
        options.modes.iter().map(|mode| stage.own(*mode)).collect();
    let runtimes = runtimes?;
    let title = format!("Density of {}", stage.image.names.first().unwrap_or(&options.image));
    let mut report = Report::new(ReportKind::Density, &title, stage.facts(&runtimes));
    let about = "Containers that do nothing, started and left alone. Memory that the host has less is the fall of MemAvailable (/proc/meminfo), which sees \
                 the kernel's own structures, too, and whatever else happens on the host.";
    let mut growth = Group::new("growth", "One more, and one more", about);
    let mut each = Idle::group("each", "Each of them, when all are there");
    let slots = stage.slot("warm-up", &["--hold".into()])?;
    for (mode, runtime) in options.modes.iter().zip(&runtimes) {
        report.subject(&runtime.key, &runtime.name, "");
        if *mode == Mode::Clone {
            // The template is made, and its pages are in memory, before the first that counts.
            Idle::start(runtime, &slots)?.end(true)?;
        }
        let mut crowd = Crowd::default();
        let stopped = crowd.grow(runtime, &stage, options, &mut growth)?;
        report.notes.push(format!("{}: {} in all; {stopped}.", runtime.name, crowd.all.len()));
        report.notes.extend(crowd.look(runtime, options, &mut each)?);
        crowd.end()?;
    }
    let line = |title: &str, measure: &str| Plot::Line {
        title: title.into(),
        measure: measure.into(),
        across: "containers".into(),
    };
    growth.plots =
        vec![line("Memory that the host has less", "taken"), line("Time of a start", "start")];
    report.groups = vec![growth, each];
    if host::software_kvm() {
        report.notes.push("This host's KVM interprets the guest's kernel: its timer ticks cost a thousand times more than on hardware.".into());
    }
    Ok(report)
}

/// The containers that are there.
#[derive(Debug, Default)]
struct Crowd<'a> {
    all: Vec<Idle<'a>>,
    /// The memory taken after each.
    taken: Vec<f64>,
}

impl<'a> Crowd<'a> {
    /// Starts containers until there are enough; says why no more.
    fn grow(
        &mut self,
        runtime: &'a Runtime,
        stage: &Stage,
        options: &Options,
        group: &mut Group,
    ) -> Result<String, BenchError> {
        let before = host::available();
        let floor = host::total() / RESERVE;
        let steps = Steps::new(u64::from(options.most));
        while let Some(wanted) =
            u32::try_from(self.all.len()).ok().filter(|so_far| *so_far < options.most)
        {
            steps.begin(&format!("{} {}", runtime.name, wanted + 1));
            if host::available() < floor {
                let kept = Unit::Bytes.show(float(floor));
                return Ok(format!("then the host had less than {kept} left, which it keeps"));
            }
            let last = options.most.min(wanted.saturating_add(options.at_once.into()));
            let slots: Result<Vec<Slot>, BenchError> = (wanted..last)
                .map(|number| {
                    stage.slot(&format!("{}-{}", runtime.key, number + 1), &["--hold".into()])
                })
                .collect();
            let refused = self.start(runtime, &slots?, group)?;
            // Less than nothing when others gave back more.
            let taken = float(before) - float(host::available());
            while self.taken.len() < self.all.len() {
                group.add(&TAKEN, &runtime.key, taken);
                self.taken.push(taken);
                steps.done();
            }
            if let Some(error) = refused {
                return Ok(format!("the next was refused: {error}"));
            }
            let taken = taken.max(0.0);
            if options.memory.is_some_and(|limit| taken >= float(limit)) {
                return Ok(format!("then they had taken {}", Unit::Bytes.show(taken)));
            }
        }
        Ok("as many as were asked for".into())
    }

    /// Starts some side by side; returns why one that is not the first was refused.
    fn start(
        &mut self,
        runtime: &'a Runtime,
        slots: &[Slot],
        group: &mut Group,
    ) -> Result<Option<BenchError>, BenchError> {
        let one = |slot| {
            let begin = now();
            let idle = Idle::start(runtime, slot)?;
            Ok((idle, milliseconds(now().saturating_sub(begin))))
        };
        let started: Vec<_> = match slots {
            [slot] => vec![one(slot)],
            slots => thread::scope(|scope| {
                let threads: Vec<_> =
                    slots.iter().map(|slot| scope.spawn(move || one(slot))).collect();
                let gone = || Err(runtime.invalid("the thread that starts it has ended"));
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| gone())).collect()
            }),
        };
        let mut refused = None;
        for result in started {
            match result {
                Ok((idle, took)) => {
                    self.all.push(idle);
                    group.add(&START, &runtime.key, took);
                }
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error @ BenchError::Verb { .. }) if !self.all.is_empty() => Ok(Some(error)),
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// What each holds and costs, and what one more does.
    fn look(
        &self,
        runtime: &Runtime,
        options: &Options,
        group: &mut Group,
    ) -> Result<Vec<String>, BenchError> {
        pause(options.settle)?;
        let samples = Idle::measure_all(&self.all, options.watch)?;
        let mut share = 0.0;
        for sample in &samples {
            sample.add_to(group, &runtime.key);
            share += sample.share;
        }
        let name = &runtime.name;
        let all = Unit::Share.show(share);
        let seconds = options.watch.as_secs();
        let mut notes = vec![format!(
            "{name}: all of them together take {all} of one processor, measured for {seconds} s."
        )];
        if let Some(slope) = slope(&self.taken) {
            let more = Unit::Bytes.show(slope);
            notes.push(format!(
                "{name}: one more takes {more} of the host's memory (least squares over all)."
            ));
        }
        Ok(notes)
    }

    fn end(self) -> Result<(), BenchError> {
        let steps = Steps::new(self.all.len() as u64);
        let last = self.all.len();
        // Thousands of guests would take long to hear a signal one after the other.
        self.all.iter().for_each(Idle::kill);
        for (number, idle) in self.all.into_iter().enumerate() {
            steps.begin("removing");
            idle.remove(number + 1 == last)?;
            steps.done();
        }
        Ok(())
    }
}

/// The slope of the line that fits the values best, which are one apart.
fn slope(values: &[f64]) -> Option<f64> {
    let length = count(values.len());
    if values.len() < 2 {
        return None;
    }
    let (middle, mean) = ((length - 1.0) / 2.0, values.iter().sum::<f64>() / length);
    let at = |number: usize| count(number) - middle;
    let (mut above, mut below) = (0.0, 0.0);
    for (number, value) in values.iter().enumerate() {
        above += at(number) * (value - mean);
        below += at(number) * at(number);
    }
    Some(above / below)
}

fn float(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
    let bytes = bytes as f64;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_is_the_slope() {
        assert_eq!(slope(&[5.0, 7.0, 9.0, 11.0]), Some(2.0));
        assert_eq!(slope(&[1.0, 0.0, 2.0]), Some(0.5));
        assert_eq!(slope(&[3.0]), None);
    }
}
