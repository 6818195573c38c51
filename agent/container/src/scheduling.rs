//! Scheduling and I/O priority (sched_setattr(2), ioprio_set(2)).

use crate::{
    error::{Error, at},
    spec::{IoPriorityClass, Process, Scheduler},
    sys::{self, SchedAttr},
};

/// What a process's specification says of its priority.
#[derive(Debug, Default)]
pub(crate) struct Scheduling {
    scheduler: Option<SchedAttr>,
    io_priority: Option<u16>,
}

/// In the order of their numbers (linux/sched.h); 4 is not in use.
const POLICIES: [&str; 7] =
    ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "", "SCHED_IDLE", "SCHED_DEADLINE"];

const FLAGS: [&str; 7] = [
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
];

impl Scheduling {
    /// # Errors
    /// [`Error::Invalid`] for names that Linux does not have.
    pub(crate) fn new(process: &Process) -> Result<Self, Error> {
        if let Some(priority @ 8..) = process.io_priority.map(|wanted| wanted.priority) {
            let why = "0 to 7 are the priorities that there are";
            return Err(Error::invalid("process.ioPriority.priority", priority, why));
        }
        let io_priority = process.io_priority.map(|priority| {
            let class = match priority.class {
                IoPriorityClass::RealTime => 1,
                IoPriorityClass::BestEffort => 2,
                IoPriorityClass::Idle => 3,
            };
            class << 13 | u16::from(priority.priority)
        });
        Ok(Self { scheduler: process.scheduler.as_ref().map(attr).transpose()?, io_priority })
    }

    pub(crate) fn apply(&self) -> Result<(), Error> {
        if let Some(attr) = &self.scheduler {
            sys::sched_setattr(attr).map_err(at("set", "process.scheduler"))?;
        }
        if let Some(priority) = self.io_priority {
            sys::ioprio_set(priority).map_err(at("set", "process.ioPriority"))?;
        }
        Ok(())
    }
}

fn attr(scheduler: &Scheduler) -> Result<SchedAttr, Error> {
    let position = |names: &[&str], name: &str, what| {
        let at = names.iter().position(|known| *known == name && !name.is_empty());
        at.and_then(|at| u32::try_from(at).ok())
            .ok_or_else(|| Error::invalid(what, name, "sched_setattr(2) has no such name"))
    };
    let mut flags = 0;
    for name in &scheduler.flags {
        flags |= 1 << position(&FLAGS, name, "process.scheduler.flags")?;
    }
    if !(-20..=19).contains(&scheduler.nice) {
        let why = "-20 to 19 are the values that there are";
        return Err(Error::invalid("process.scheduler.nice", scheduler.nice, why));
    }
    if !(0..=99).contains(&scheduler.priority) {
        let why = "0 to 99 are the priorities that there are";
        return Err(Error::invalid("process.scheduler.priority", scheduler.priority, why));
    }
    Ok(SchedAttr {
        policy: position(&POLICIES, &scheduler.policy, "process.scheduler.policy")?,
        flags,
        nice: scheduler.nice,
        priority: scheduler.priority.cast_unsigned(),
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
        ..SchedAttr::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        let process: Process = serde_json::from_str(
            r#"{"scheduler": {"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RECLAIM"]},
                "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4}}"#,
        )
        .unwrap();
        let scheduling = Scheduling::new(&process).unwrap();
        let attr = scheduling.scheduler.unwrap();
        assert_eq!((attr.policy, attr.flags, attr.nice), (3, 2, 5));
        assert_eq!(scheduling.io_priority, Some(3 << 13 | 4));
        let bad = Scheduler { policy: String::new(), ..Scheduler::default() };
        assert!(super::attr(&bad).is_err());
    }
}
