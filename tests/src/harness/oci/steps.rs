//! Steps of a command: the system calls that its processes make, and the command killed at one of them with strace's injection; or a
//! process that runs already.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::{Oci, leftovers::is_zombie};
use crate::harness::{Outcome, end_daemon, signal_process};

/// Where strace kills: at the `when`th call, of those in `calls`, that a process makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `all`, or a name of a system call.
    pub calls: String,
    /// Counted from 1 in every process.
    pub when: usize,
}

/// Runs the command under strace, as a child of this process (`-D`), and lets what it leaves behind go untraced.
#[track_caller]
fn traced(oci: &Oci, command: &Command, options: &[String], log: &Path) -> Outcome {
    let mut traced = Command::new("strace");
    traced.args(["-D", "-f", "-qq", "-o"]).arg(log).args(options);
    traced.arg("--").arg(command.get_program()).args(command.get_args());
    traced.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = oci.run_command(traced);
    // strace detaches what it follows when it is asked to end.
    let name = log.display().to_string();
    for _ in 0..200 {
        let tracers = tracers(&name);
        if tracers.is_empty() {
            break;
        }
        tracers.iter().for_each(|pid| signal_process(*pid, Signal::TERM));
        thread::sleep(Duration::from_millis(5));
    }
    outcome
}

/// The straces that write to this log.
fn tracers(log: &str) -> Vec<u32> {
    let items = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = items.filter_map(|item| item.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.starts_with(b"strace\0")
            && words.windows(log.len()).any(|part| part == log.as_bytes())
    })
    .collect()
}

impl Step {
    /// What strace is told.
    #[must_use]
    pub fn options(&self) -> [String; 2] {
        let Self { calls, when } = self;
        [format!("-etrace={calls}"), format!("-einject={calls}:signal=SIGKILL:when={when}")]
    }

    /// Runs the command, killed at this step.
    #[track_caller]
    pub fn inject(&self, oci: &Oci, command: &Command) -> Outcome {
        traced(oci, command, &self.options(), &oci.path("injected.log"))
    }
}

/// A strace that follows a process which runs already. It lets go when this is dropped.
#[derive(Debug)]
pub struct Followed {
    strace: Child,
    log: PathBuf,
}

impl Followed {
    /// Follows a process, kills at the step if there is one. `all`: also its other threads and what it starts.
    #[track_caller]
    pub fn new(oci: &Oci, pid: u32, all: bool, step: Option<&Step>) -> Self {
        let log = oci.path("followed.log");
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o"]).arg(&log).args(all.then_some("-f"));
        strace.args(step.map(Step::options).into_iter().flatten());
        strace.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
        let strace = strace.spawn().expect("the package strace is installed");
        let tracer = format!("TracerPid:\t{}\n", strace.id());
        let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // Its first call may be the step.
        oci.wait("strace", || status().contains(&tracer) || is_zombie(pid));
        Self { strace, log }
    }

    /// What strace tells of the calls that were seen.
    #[must_use]
    pub fn log(self) -> String {
        let log = self.log.clone();
        drop(self);
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // It may wait for a thread of a process that it has killed itself, and does not hear anything then.
        end_daemon(&mut self.strace);
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.calls, self.when)
    }
}

/// Runs the command to its end under `strace -f` and returns what that wrote.
#[track_caller]
pub fn log_of(oci: &Oci, command: &Command) -> String {
    let log = oci.path("calls.log");
    traced(oci, command, &[], &log).assert_code(0);
    let text = fs::read(&log).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs the command to its end and returns its system calls: the process's number and the name of the call, in order.
#[track_caller]
pub fn calls_of(oci: &Oci, command: &Command) -> Vec<(u32, String)> {
    parse(&log_of(oci, command))
}

/// What a log of strace tells: the process's number, where it has one, and the name of the call.
#[must_use]
pub fn parse(log: &str) -> Vec<(u32, String)> {
    let calls = log.lines().filter_map(|line| {
        let line = line.trim_start();
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let (pid, rest) = line.split_at(digits);
        let (name, _) = rest.trim_start().split_once('(')?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (is_name && !name.is_empty()).then(|| (pid.parse().unwrap_or(0), name.to_owned()))
    });
    calls.collect()
}

/// At most `most` steps spread over all calls of any process, and every one of those in `always`.
#[must_use]
pub fn steps_of(calls: &[(u32, String)], most: usize, always: &[&str]) -> Vec<Step> {
    let count = |wanted: &dyn Fn(&str) -> bool| {
        let mut counts = BTreeMap::<u32, usize>::new();
        for (pid, _) in calls.iter().filter(|(_, name)| wanted(name)) {
            *counts.entry(*pid).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    };
    let total = count(&|_| true);
    let stride = total.div_ceil(most.max(1)).max(1);
    let mut steps: Vec<_> =
        (1..=total).step_by(stride).map(|when| Step { calls: "all".to_owned(), when }).collect();
    for name in always {
        let total = count(&|call| call == *name);
        steps.extend((1..=total).map(|when| Step { calls: (*name).to_owned(), when }));
    }
    steps
}
