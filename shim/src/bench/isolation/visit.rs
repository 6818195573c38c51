//! A scout's visit to a container.

use std::{fs, os::unix::fs::DirBuilderExt, path::Path};

use bulkhead_scout::{DONE, GO, Hints, REPORT_VERSION, Report as Seen};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::trace::{Calls, Tracer};
use crate::bench::{
    BenchError,
    memory::descendants,
    runtime::{Runtime, Slot},
    talk::Talk,
};

/// What came of it.
#[derive(Debug)]
pub(super) struct Visit {
    /// What the scout saw and reached.
    pub(super) seen: Seen,
    /// What the host was asked meanwhile, or why that is not known.
    pub(super) calls: Result<Calls, String>,
}

/// Makes the bundle's directory with its configuration.
///
/// # Errors
/// The host refuses.
pub(in crate::bench) fn bundle(path: &Path, config: &Value) -> Result<(), BenchError> {
    let what = || format!("make {}", path.display());
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| fs::write(path.join("config.json"), config.to_string()))
        .map_err(BenchError::host(what()))
}

/// Makes a container of the bundle, hears its scout, and removes it.
///
/// # Errors
/// [`BenchError`]; what is left of the container goes with the bench's directories.
pub(super) fn visit(runtime: &Runtime, slot: &Slot, hints: &Hints) -> Result<Visit, BenchError> {
    let (mut talk, input, output) = Talk::new(&runtime.name, runtime.limit)?;
    let (pid, _) = runtime.create_with(slot, input, output)?;
    let visited = runtime.verb("start", slot, &[]).and_then(|_| {
        let seen = hear(&mut talk, hints)?;
        let calls = count(&mut talk, pid)?;
        Ok(Visit { seen, calls })
    });
    talk.close();
    if visited.is_err() {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
    let ended = runtime.wait(pid, "the scout's end");
    let visit = visited?;
    ended?;
    runtime.verb("delete", slot, &[])?;
    Ok(visit)
}

/// Tells a scout what to look for, and hears what it found.
pub(super) fn hear(talk: &mut Talk, hints: &Hints) -> Result<Seen, BenchError> {
    let wrong = |why: String| BenchError::Invalid { runtime: "the scout".into(), why };
    talk.say(&serde_json::to_string(hints).map_err(|error| wrong(error.to_string()))?)?;
    let seen: Seen = serde_json::from_str(&talk.hear()?)
        .map_err(|error| wrong(format!("its report cannot be read: {error}")))?;
    if seen.version == REPORT_VERSION {
        return Ok(seen);
    }
    Err(wrong(format!(
        "its reports have version {} and not {REPORT_VERSION}: it is not of this installation",
        seen.version
    )))
}

/// Lets the workload run, and counts what the container's processes ask of the host meanwhile.
fn count(talk: &mut Talk, pid: Pid) -> Result<Result<Calls, String>, BenchError> {
    let mut pids = descendants(pid.as_raw_pid());
    pids.push(pid.as_raw_pid());
    let tracer = match Tracer::start(pids) {
        Ok(tracer) => tracer,
        Err(error) => return Ok(Err(error.to_string())),
    };
    talk.say(GO)?;
    let said = talk.hear()?;
    let calls = tracer.finish().map_err(|error| error.to_string());
    if said == DONE {
        return Ok(calls);
    }
    Err(BenchError::Invalid { runtime: "the scout".into(), why: format!("it said {said:?}") })
}
