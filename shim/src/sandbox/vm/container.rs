//! A container in a microVM as other processes reach it: through its monitor's socket, or, when that is gone, through
//! what was recorded.

use std::{
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bulkhead_container::{Cgroup, CgroupRecord};
use bulkhead_protocol::{FrameError, ProcessInfo, Reply, Stats};
use bulkhead_rootfs::snapshot::Upper;
use bulkhead_vmm::api::Counters;
use rustix::process::Pid;
use serde_json::Value;

use super::{
    Exec, OomEvents, Record, Sandbox, SandboxError, Spawned, Status,
    client::{Client, Heard, gone},
    create::{failed, no_descriptors, refusal},
    exec,
    record::{ENDED, Ended, NetworkRecord, Pod, lost},
    rewrite::guest_resources,
};
use crate::{
    monitor::{
        clean,
        message::{Answer, Ask, SOCKET, State},
    },
    network,
    sandbox::config,
};

/// How long an answer may take that the guest has no part in, or that it only has to look up: who asks how much all containers use does not wait for one
/// that is stuck.
const AT_ONCE: Duration = Duration::from_secs(20);
/// How long a monitor may take to end after its socket is gone.
const LAST_MOMENTS: Duration = Duration::from_secs(5);
/// How long who sends a signal waits for the guest to say that it came, or is refused.
const SIGNALLED: Duration = Duration::from_secs(10);
/// How long the guest may take.
const GUEST: Duration = Duration::from_secs(180);

/// A container in a microVM.
#[derive(Debug)]
pub struct Guest<'a> {
    record: &'a Record,
    dir: &'a Path,
}

impl<'a> Guest<'a> {
    pub(super) fn new(record: &'a Record, dir: &'a Path) -> Self {
        Self { record, dir }
    }

    /// Connects to the monitor; `None` when it has ended.
    fn connect(&self, patience: Duration) -> Result<Option<Client>, SandboxError> {
        if !self.record.monitor.is_alive() {
            return Ok(None);
        }
        if let Some(pod) = &self.record.pod {
            return match at_member(pod, patience) {
                Ok(client) => Ok(Some(client)),
                // What stands for it ends when the pod does.
                Err(_) if self.has_ended() => Ok(None),
                Err(error) => Err(SandboxError::Failed(format!(
                    "the monitor of the container's pod (process {}) cannot be reached: {error}",
                    pod.monitor.pid
                ))),
            };
        }
        match Client::connect(self.dir, patience) {
            Ok(client) => Ok(Some(client)),
            // It takes its socket away at its end.
            Err(_) if !self.record.monitor.is_alive() => Ok(None),
            // Its last act but one was to take the socket away.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.has_ended() => Ok(None),
            Err(error) => Err(SandboxError::Failed(format!(
                "the container's monitor (process {}) cannot be reached: {error}",
                self.record.monitor.pid
            ))),
        }
    }

    /// The monitor is at its end; its exit code is not lost because somebody takes it for stopped already.
    fn has_ended(&self) -> bool {
        let deadline = Instant::now() + LAST_MOMENTS;
        while self.record.monitor.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// The monitor has said its last word, or died before.
    fn is_going(&self) -> bool {
        let monitor = self.record.pod.as_ref().map_or(self.dir, |pod| &pod.directory);
        !self.record.monitor.is_alive() || !monitor.join(SOCKET).exists()
    }

    /// How the program ended, as its monitor has noted it.
    fn ended(&self) -> Option<Ended> {
        let noted = std::fs::read(self.dir.join(ENDED)).ok()?;
        serde_json::from_slice(&noted).ok()
    }

    fn living(&self, patience: Duration) -> Result<Client, SandboxError> {
        let client = self.connect(patience)?;
        client.ok_or_else(|| SandboxError::State("container not running".into()))
    }

    /// A machine that was lost meanwhile is said to be: there is nothing else to be learnt of a state.
    fn ask(&self, ask: &Ask) -> Result<Reply, SandboxError> {
        self.ask_within(GUEST, ask)
    }

    fn ask_within(&self, patience: Duration, ask: &Ask) -> Result<Reply, SandboxError> {
        let answer = self.living(patience).and_then(|mut client| client.ask(ask));
        answer.map_err(|error| self.told(error))
    }

    fn told(&self, error: SandboxError) -> SandboxError {
        match error {
            SandboxError::State(what) if self.is_going() && self.has_ended() => {
                match lost(self.dir) {
                    Some(why) => SandboxError::State(format!("{what}: {why}")),
                    None => SandboxError::State(what),
                }
            }
            error => error,
        }
    }
}

/// What the machine of the container with this state directory has counted since it began.
///
/// # Errors
/// [`SandboxError`]: there is no machine, or it does not answer.
pub fn counters(dir: &Path) -> Result<Counters, SandboxError> {
    let mut client = Client::connect(dir, AT_ONCE).map_err(failed("reach the monitor"))?;
    client.send(&Ask::Counters).map_err(gone)?;
    match client.answer().map_err(gone)? {
        Answer::Counters(counters) => Ok(*counters),
        Answer::Failed(failure) => Err(refusal(failure)),
        other => Err(strange(&other)),
    }
}

fn strange(answer: &impl std::fmt::Debug) -> SandboxError {
    SandboxError::Failed(format!("the container's monitor answered {answer:?}"))
}

impl Sandbox for Guest<'_> {
    fn status(&self) -> Result<Status, SandboxError> {
        let Some(mut client) = self.connect(AT_ONCE)? else { return Ok(Status::Stopped) };
        let answer = client.send(&Ask::Status).and_then(|()| client.answer());
        match answer {
            Ok(Answer::Status(State::Creating)) => Ok(Status::Creating),
            Ok(Answer::Status(State::Created)) => Ok(Status::Created),
            Ok(Answer::Status(State::Running)) => Ok(Status::Running),
            Ok(Answer::Status(State::Paused)) => Ok(Status::Paused),
            // Nothing of it is left in its pod; what stands for it has the last of its output, or was just made.
            Ok(Answer::Status(State::Stopped)) if self.has_ended() => Ok(Status::Stopped),
            Ok(Answer::Status(State::Stopped)) => Ok(Status::Running),
            Ok(other) => Err(strange(&other)),
            Err(error) => match gone(error) {
                // It ended between the connection and the answer.
                SandboxError::State(_) if self.has_ended() => Ok(Status::Stopped),
                error if self.record.monitor.is_alive() => Err(error),
                _ => Ok(Status::Stopped),
            },
        }
    }

    fn pid(&self) -> Pid {
        self.record.monitor.pid().unwrap_or(Pid::INIT)
    }

    fn start(&self) -> Result<(), SandboxError> {
        self.ask(&Ask::Start).map(drop)
    }

    fn kill(&self, signal: i32, all: bool) -> Result<(), SandboxError> {
        let kills = signal == libc::SIGKILL;
        let mut client = self.living(if kills { GUEST } else { SIGNALLED })?;
        let heard = client.hear(&Ask::Kill { signal, all }).and_then(|heard| match heard {
            // A guest that does not hear of it loses its machine, and so does a monitor that dies meanwhile: killed all the same.
            Heard::End if kills => Ok(()),
            // It is on its way, as for a process that is stopped.
            Heard::Nothing if !kills => Ok(()),
            heard => heard.reply().map(drop),
        });
        heard.map_err(|error| self.told(error))
    }

    fn exec(&self, wanted: &Exec<'_>) -> Result<Spawned, SandboxError> {
        if wanted.preserve_fds > 0 {
            return Err(no_descriptors(wanted.preserve_fds));
        }
        if let Some(cgroup) = wanted.cgroup.filter(|cgroup| !cgroup.is_empty()) {
            return Err(SandboxError::Unsupported(format!(
                "--cgroup {cgroup}: a process joins the container's own cgroup in a microVM"
            )));
        }
        exec::exec(self.living(GUEST)?, wanted.process)
    }

    fn pause(&self) -> Result<(), SandboxError> {
        self.ask(&Ask::Pause).map(drop)
    }

    fn resume(&self) -> Result<(), SandboxError> {
        self.ask(&Ask::Resume).map(drop)
    }

    fn update(&self, resources: &Value) -> Result<Vec<String>, SandboxError> {
        // The agent would say the same, without the field's name.
        let _: bulkhead_container::spec::Resources = config::from_value(resources, "resources")?;
        let mut resources = resources.clone();
        let mut notes = Vec::new();
        if let Value::Object(resources) = &mut resources {
            guest_resources(resources, &mut notes)?;
        }
        if let Reply::Updated { warnings } = self.ask(&Ask::Update(resources))? {
            notes.extend(warnings);
        }
        Ok(notes)
    }

    fn stats(&self) -> Result<Stats, SandboxError> {
        match self.ask_within(AT_ONCE, &Ask::Stats)? {
            Reply::Stats(stats) => Ok(*stats),
            other => Err(strange(&other)),
        }
    }

    fn processes(&self) -> Result<Vec<ProcessInfo>, SandboxError> {
        match self.ask_within(AT_ONCE, &Ask::Processes)? {
            Reply::Processes(processes) => Ok(processes),
            other => Err(strange(&other)),
        }
    }

    fn oom_events(&self) -> Result<OomEvents, SandboxError> {
        let mut client = self.living(AT_ONCE)?;
        client.wait_for_ever().map_err(failed("wait for the monitor"))?;
        client.send(&Ask::Events).map_err(gone)?;
        Ok(Box::new(
            std::iter::from_fn(move || match client.answer() {
                Ok(Answer::Oom) => Some(Ok(())),
                Ok(other) => Some(Err(strange(&other))),
                Err(FrameError::Closed) => None,
                Err(error) => Some(Err(gone(error))),
            })
            .fuse(),
        ))
    }

    fn oom_killed(&self) -> Result<bool, SandboxError> {
        if let Some(mut client) = self.connect(AT_ONCE)?
            && let Ok(Answer::OomKilled(killed)) =
                client.send(&Ask::OomKilled).and_then(|()| client.answer())
        {
            return Ok(killed);
        }
        // A monitor that was killed has noted nothing.
        Ok(self.ended().is_some_and(|ended| ended.oom_killed))
    }

    fn abandon_output(&self) -> Result<Option<u8>, SandboxError> {
        let Some(ended) = self.ended() else { return Ok(None) };
        if self.record.monitor.end() {
            return Ok(Some(ended.status.shell_code()));
        }
        Err(SandboxError::Failed(format!("process {} does not die", self.record.monitor.pid)))
    }

    fn remove(&self) -> Result<(), SandboxError> {
        remove(self.record, self.dir)
    }
}

/// Ends what is left of a container and removes it.
pub(super) fn remove(record: &Record, dir: &Path) -> Result<(), SandboxError> {
    // The VMM ends with its monitor, which may have been killed a moment ago.
    for process in [Some(record.monitor), record.vmm].into_iter().flatten() {
        if !process.end() {
            let pid = process.pid;
            return Err(SandboxError::Failed(format!("process {pid} does not die")));
        }
    }
    if let Some(pod) = &record.pod {
        leave(pod)?;
    }
    if let Some(NetworkRecord { namespace, container }) = &record.network {
        network::remove(namespace, container)
            .map_err(|error| SandboxError::Failed(error.to_string()))?;
    }
    if let Some(upper) = &record.upper {
        // Done already unless the monitor was killed; with its snapshot gone, nobody wants it any more.
        let _ = Upper::open(upper).and_then(|upper| upper.settle());
    }
    if let Some(cgroup) = &record.cgroup {
        let cgroup: CgroupRecord = serde_json::from_value(cgroup.clone())
            .map_err(|error| SandboxError::Failed(format!("the state's cgroup: {error}")))?;
        Cgroup::open(cgroup).remove()?;
    }
    clean(dir);
    Ok(())
}

/// A connection to a pod's monitor that is about one of its containers.
fn at_member(pod: &Pod, patience: Duration) -> io::Result<Client> {
    let mut client = Client::connect(&pod.directory, patience)?;
    client.send(&Ask::At(pod.container.clone())).map_err(io::Error::other)?;
    Ok(client)
}

/// Waits until nothing is left of a container in its pod, which has ended or whose process has.
fn leave(pod: &Pod) -> Result<(), SandboxError> {
    if !pod.monitor.is_alive() {
        return Ok(());
    }
    let left = at_member(pod, GUEST)
        .map_err(failed("reach the monitor of the container's pod"))
        .and_then(|mut client| client.ask(&Ask::Leave).map(drop));
    match left {
        // The pod ended meanwhile, and all of it is gone.
        Err(_) if !pod.monitor.is_alive() => Ok(()),
        Err(SandboxError::State(_)) => Ok(()),
        left => left,
    }
}
