//! `update`: limits of a container that runs.

use std::{io::Read, path::Path};

use serde_json::{Value, json};

use super::{Context, OciError, Parsed};
use crate::sandbox::{Config, changes};

/// The largest list of limits.
const MAX: u64 = 1 << 20;

/// Flags with a number, and where it goes.
const NUMBERS: &[(&str, &str, &str)] = &[
    ("blkio-weight", "blockIO", "weight"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-burst", "cpu", "burst"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-idle", "cpu", "idle"),
    ("pids-limit", "pids", "limit"),
];
/// Flags with text.
const TEXTS: &[(&str, &str, &str)] =
    &[("cpuset-cpus", "cpu", "cpus"), ("cpuset-mems", "cpu", "mems")];
/// Flags with a size.
const SIZES: &[(&str, &str, &str)] = &[
    ("memory", "memory", "limit"),
    ("memory-reservation", "memory", "reservation"),
    ("memory-swap", "memory", "swap"),
];

pub(super) fn update(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let mut container = context.container(parsed)?;
    for flag in ["l3-cache-schema", "mem-bw-schema"] {
        if parsed.some(flag).is_some() {
            return Err(OciError::Refused(format!("--{flag}: Intel RDT is not supported")));
        }
    }
    let resources = match parsed.some("resources") {
        Some("-") => of_input()?,
        Some(path) => Config::read_json(Path::new(path))?,
        None => of_flags(parsed)?,
    };
    let resources = changes(resources);
    context.warn(&container.update(&resources)?);
    Ok(0)
}

fn of_input() -> Result<Value, OciError> {
    let mut text = Vec::new();
    let read = std::io::stdin().take(MAX).read_to_end(&mut text);
    read.map_err(|error| OciError::Refused(format!("cannot read standard input: {error}")))?;
    serde_json::from_slice(&text)
        .map_err(|error| OciError::Refused(format!("resources on standard input: {error}")))
}

fn of_flags(parsed: &Parsed) -> Result<Value, OciError> {
    let mut resources = json!({});
    for &(flag, part, property) in NUMBERS {
        if let Some(number) = parsed.number::<i64>(flag).map_err(OciError::Refused)? {
            resources[part][property] = json!(number);
        }
    }
    for &(flag, part, property) in TEXTS {
        if let Some(text) = parsed.some(flag) {
            resources[part][property] = json!(text);
        }
    }
    for &(flag, part, property) in SIZES {
        if let Some(text) = parsed.some(flag) {
            let size = size(text).ok_or_else(|| {
                OciError::Refused(format!("invalid value for {flag}: invalid size: '{text}'"))
            })?;
            resources[part][property] = json!(size);
        }
    }
    Ok(resources)
}

/// Bytes, with k, m, g or t for powers of 1024, and -1.
fn size(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (number, shift) = match lower.char_indices().next_back()? {
        (at, 'k') => (&lower[..at], 10),
        (at, 'm') => (&lower[..at], 20),
        (at, 'g') => (&lower[..at], 30),
        (at, 't') => (&lower[..at], 40),
        _ => (lower, 0),
    };
    number.trim().parse::<i64>().ok()?.checked_mul(1 << shift).filter(|size| *size >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in
            [("-1", -1), ("100", 100), ("2k", 2048), ("1MiB", 1 << 20), ("1gb", 1 << 30)]
        {
            assert_eq!(size(text), Some(expected), "{text}");
        }
        for bad in ["", "x", "-5", "1.5x", "99999999999t"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
