//! `events`: what a container uses, again and again, and who was killed for want of memory.

use std::{sync::mpsc, thread, time::Duration};

use serde::Serialize;

use super::{Context, OciError, Parsed, context::id, output};
use crate::{lifecycle::LifecycleError, sandbox::Status};

const INTERVAL: &str = "5s";

#[derive(Serialize)]
struct Event<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

pub(super) fn events(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let text = parsed.some("interval").unwrap_or(INTERVAL);
    let interval = duration(text).ok_or_else(|| {
        OciError::Refused(format!(
            "invalid value {text:?} for flag -interval: as 5s, 100ms or 1m30s"
        ))
    })?;
    if interval.is_zero() {
        return Err(OciError::Refused("duration interval must be greater than 0".into()));
    }
    let container = context.container(parsed)?;
    let id = id(parsed);
    if container.status()? == Status::Stopped {
        return Err(LifecycleError::NotRunningNamed(id.to_owned()).into());
    }
    if parsed.has("stats") {
        output::json_line(&Event { kind: "stats", id, data: Some(container.stats()?) });
        return Ok(0);
    }
    let (sender, oom) = mpsc::channel();
    let news = container.oom_events()?;
    thread::spawn(move || {
        for one in news {
            if one.is_err() || sender.send(()).is_err() {
                return;
            }
        }
    });
    loop {
        match oom.recv_timeout(interval) {
            Ok(()) => output::json_line(&Event::<()> { kind: "oom", id, data: None }),
            Err(mpsc::RecvTimeoutError::Timeout) => match container.stats() {
                Ok(stats) => output::json_line(&Event { kind: "stats", id, data: Some(stats) }),
                Err(LifecycleError::NotRunningNamed(_)) => return Ok(0),
                Err(error) => context.warn(&[error.to_string()]),
            },
            // The container has ended.
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(0),
        }
    }
}

/// Go's form of a time, `1m30s`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(end);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_gos() {
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        for bad in ["", "5", "s", "5 s", "-1s", "5x"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
