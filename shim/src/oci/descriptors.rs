//! Descriptors beyond the standard streams that a process gets: those of socket activation (sd_listen_fds(3)) and those
//! of `--preserve-fds`, which follow them.

use std::env;

use super::{OciError, Parsed};

/// The first descriptor behind the standard streams.
const FIRST: u32 = 3;
/// More than this are a mistake.
const MAX: u32 = 4096;

/// Descriptors for a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptors {
    /// How many, from 3 on.
    pub(super) count: u32,
    /// How many of them are for socket activation.
    listen: u32,
}

impl Descriptors {
    /// Those that this process was given for another one.
    pub(super) fn of(parsed: &Parsed) -> Result<Self, OciError> {
        let preserve: u32 = parsed.number("preserve-fds").map_err(OciError::Refused)?.unwrap_or(0);
        let listen = listen();
        let count = listen.saturating_add(preserve);
        if count > MAX {
            return Err(OciError::Refused(format!("--preserve-fds {preserve}: at most {MAX} go")));
        }
        for fd in FIRST + listen..FIRST + count {
            if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
                return Err(OciError::Refused(format!(
                    "unable to stat preserved-fd {} (of {preserve}): no such file or directory",
                    fd - FIRST - listen
                )));
            }
        }
        Ok(Self { count, listen })
    }

    /// What the process has to be told.
    pub(super) fn environment(self) -> Vec<String> {
        match self.listen {
            0 => Vec::new(),
            count => vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()],
        }
    }
}

fn listen() -> u32 {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}
