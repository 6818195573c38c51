//! The steps of a start on one clock, and how they are shown.

use std::io::Write;

use bulkhead_vmm::api::Mark;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// `CLOCK_MONOTONIC` now, in nanoseconds.
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// A step of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This program began.
    Request,
    /// The image is in the store and the writable layer is made.
    Prepared,
    /// The VMM's process was started.
    VmmSpawned,
    /// The VMM's `main` began.
    VmmStarted,
    /// The guest kernel's first instruction.
    KernelEntry,
    /// The agent's first instruction.
    AgentEntry,
    /// The agent answered.
    AgentReady,
    /// The container was made.
    Created,
    /// The first instruction of the container's program.
    ProgramEntry,
    /// The program's first output arrived.
    FirstOutput,
    /// The program ended.
    Ended,
}

impl Step {
    const ALL: [Self; 11] = [
        Self::Request,
        Self::Prepared,
        Self::VmmSpawned,
        Self::VmmStarted,
        Self::KernelEntry,
        Self::AgentEntry,
        Self::AgentReady,
        Self::Created,
        Self::ProgramEntry,
        Self::FirstOutput,
        Self::Ended,
    ];

    fn name(self) -> &'static str {
        match self {
            Step::Request => "request",
            Step::Prepared => "image and writable layer ready",
            Step::VmmSpawned => "VMM spawned",
            Step::VmmStarted => "VMM's first instruction",
            Step::KernelEntry => "kernel entry (first KVM_RUN)",
            Step::AgentEntry => "agent's first instruction",
            Step::AgentReady => "agent ready",
            Step::Created => "container created",
            Step::ProgramEntry => "program's first instruction",
            Step::FirstOutput => "first output",
            Step::Ended => "program ended",
        }
    }
}

impl Step {
    /// Its name in files.
    fn key(self) -> &'static str {
        match self {
            Step::Request => "request",
            Step::Prepared => "prepared",
            Step::VmmSpawned => "vmm-spawned",
            Step::VmmStarted => "vmm-started",
            Step::KernelEntry => "kernel-entry",
            Step::AgentEntry => "agent-entry",
            Step::AgentReady => "agent-ready",
            Step::Created => "created",
            Step::ProgramEntry => "program-entry",
            Step::FirstOutput => "first-output",
            Step::Ended => "ended",
        }
    }
}

impl From<Mark> for Step {
    fn from(mark: Mark) -> Self {
        match mark {
            Mark::ProcessStarted => Step::VmmStarted,
            Mark::KernelEntry => Step::KernelEntry,
            Mark::InitExec => Step::AgentEntry,
            Mark::ContainerExec => Step::ProgramEntry,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Passed {
    step: Step,
    at: u64,
    instructions: Option<u64>,
}

/// The steps that were passed.
#[derive(Debug)]
pub struct Timeline {
    passed: Vec<Passed>,
}

impl Timeline {
    /// Begins one that was requested at `at` (see [`now`]).
    #[must_use]
    pub fn begin(at: u64) -> Self {
        Self { passed: vec![Passed { step: Step::Request, at, instructions: None }] }
    }

    /// Notes that `step` was passed now.
    pub fn pass(&mut self, step: Step) {
        self.pass_at(step, now(), None);
    }

    /// Notes that `step` was passed at `at`, with the guest-kernel instructions interpreted by then. Only the first time counts.
    pub fn pass_at(&mut self, step: Step, at: u64, instructions: Option<u64>) {
        if self.passed.iter().all(|known| known.step != step) {
            self.passed.push(Passed { step, at, instructions });
        }
    }

    /// Forgets the steps of a machine that was given up for another one.
    pub fn start_again(&mut self) {
        self.passed.retain(|passed| matches!(passed.step, Step::Request | Step::Prepared));
    }

    /// Adds the steps of a list of [`Timeline::records`], or of a monitor's `timeline.json`, which has it in `steps`. What in it is no
    /// step is left out.
    pub fn merge(&mut self, records: &Value) {
        let records = records.get("steps").unwrap_or(records);
        let number = |record: &Value, key: &str| record.get(key).and_then(Value::as_u64);
        for record in records.as_array().map(Vec::as_slice).unwrap_or_default() {
            let key = record.get("step").and_then(Value::as_str).unwrap_or_default();
            let step = Step::ALL.into_iter().find(|step| step.key() == key);
            if let (Some(step), Some(at)) = (step, number(record, "at")) {
                self.pass_at(step, at, number(record, "instructions"));
            }
        }
    }

    fn in_order(&self) -> (u64, Vec<Passed>) {
        let mut passed = self.passed.clone();
        passed.sort_by_key(|step| step.at);
        (self.passed[0].at, passed)
    }

    /// One line of JSON: a list of `{step, ms, instructions}`; milliseconds since the request, instructions `null` where KVM does not count them.
    #[must_use]
    pub fn json(&self) -> Value {
        let (start, passed) = self.in_order();
        let steps = passed.iter().map(|step| {
            let instructions = step.instructions.filter(|&n| n > 0 || step.step == Step::KernelEntry);
            json!({ "step": step.step.name(), "ms": milliseconds(start, step.at), "instructions": instructions })
        });
        Value::Array(steps.collect())
    }

    /// A list of `{step, at, instructions}` with `CLOCK_MONOTONIC` in nanoseconds, for who puts it together with other steps.
    #[must_use]
    pub fn records(&self) -> Value {
        let (_, passed) = self.in_order();
        let records = passed.iter().map(|step| {
            json!({ "step": step.step.key(), "at": step.at, "instructions": step.instructions })
        });
        Value::Array(records.collect())
    }

    /// Writes a table.
    ///
    /// # Errors
    /// That of the writer.
    pub fn write_table(&self, to: &mut impl Write) -> std::io::Result<()> {
        let (start, passed) = self.in_order();
        writeln!(to, "{:<32} {:>12} {:>12} {:>18}", "step", "ms", "+ms", "kernel insns")?;
        let mut before = start;
        for step in passed {
            let (ms, more) = (milliseconds(start, step.at), milliseconds(before, step.at));
            let instructions =
                step.instructions.filter(|&n| n > 0).map_or_else(String::new, |n| n.to_string());
            writeln!(to, "{:<32} {ms:>12.3} {more:>12.3} {instructions:>18}", step.step.name())?;
            before = step.at;
        }
        Ok(())
    }
}

fn milliseconds(from: u64, to: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a start fit a double exactly")]
    let microseconds = (to.saturating_sub(from) / 1000) as f64;
    microseconds / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_shown_in_the_order_of_time_and_once() {
        let mut timeline = Timeline::begin(1_000_000);
        timeline.pass_at(Step::AgentReady, 9_000_000, None);
        timeline.pass_at(Step::AgentEntry, 5_000_000, Some(77));
        timeline.pass_at(Step::AgentEntry, 6_000_000, Some(78));
        let json = timeline.json();
        assert_eq!(
            json[1],
            json!({ "step": "agent's first instruction", "ms": 4.0, "instructions": 77 })
        );
        assert_eq!(json[2]["ms"], 8.0);
        assert_eq!(json.as_array().unwrap().len(), 3);
        let mut other = Timeline::begin(1_000_000);
        other.merge(&timeline.records());
        other.merge(&json!([{ "step": "no such step", "at": 1 }, 7]));
        assert_eq!(other.json(), timeline.json());
        let mut file = Timeline::begin(1_000_000);
        file.merge(&json!({ "steps": timeline.records(), "template": null }));
        assert_eq!(file.json(), timeline.json());
    }
}
