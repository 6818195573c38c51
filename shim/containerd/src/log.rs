//! The shim's log: lines on the pipe `log` in the bundle, which containerd copies to its own.

use std::{fmt::Display, fs::File, io::Write, path::Path, sync::OnceLock};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};

/// The pipe's name.
const NAME: &str = "log";

static LOG: OnceLock<Log> = OnceLock::new();

/// Where lines go.
#[derive(Debug)]
struct Log {
    file: File,
    debug: bool,
    id: String,
}

/// Opens the log of this process; without a pipe, lines go nowhere. `debug`: also what only developers want.
pub(crate) fn open(bundle: &Path, id: &str, debug: bool) {
    // Open for reading too, so that a containerd that is away does not end this process; and never waited for.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(bundle.join(NAME), flags, Mode::empty()) {
        let _ = LOG.set(Log { file: file.into(), debug, id: id.to_owned() });
    }
}

/// Something that the administrator should know.
pub(crate) fn warn(message: impl Display) {
    line("warning", &message);
}

/// A step.
pub(crate) fn debug(message: impl Display) {
    if LOG.get().is_some_and(|log| log.debug) {
        line("debug", &message);
    }
}

fn line(level: &str, message: &impl Display) {
    let Some(log) = LOG.get() else { return };
    let text = serde_json::Value::from(message.to_string());
    let id = &log.id;
    let line = format!("time=\"{}\" level={level} msg={text} id={id}\n", Timestamp::now());
    // One that has no room is lost: containerd is away, and nothing may wait for it.
    let _ = (&log.file).write_all(line.as_bytes());
}
