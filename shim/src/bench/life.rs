//! One container from request to removal, measured, and the proof that the figures are of what they are said to be.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use super::{
    BenchError, process,
    runtime::{Kind, Runtime, Slot},
    stamp::{Stamp, wall_offset},
    timeline::Record,
};
use crate::timeline::now;

/// The longest file of a monitor or a template that is read.
const MAX_FILE: u64 = 1 << 20;

/// A life that was measured. Times are of the host's `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Debug, Clone)]
pub struct Life {
    /// When `create` was asked for.
    pub request: u64,
    /// When the phases ended, by [`super::startup::PHASES`]'s keys.
    pub passed: BTreeMap<&'static str, u64>,
    /// User and system time of all processes that ended.
    pub processor: Duration,
    /// Guest-kernel instructions until the program's first, where KVM counts them.
    pub instructions: Option<u64>,
    /// The program's first instruction by the mark of its kernel, less what it said itself by its guest's wall clock, in nanoseconds; of a plain container nothing.
    pub clock_behind: Option<i64>,
}

/// Runs a container's whole life. `alone`: no other container of this process lives, so that whatever is left afterwards is this one's.
///
/// # Errors
/// [`BenchError`].
pub fn live(runtime: &Runtime, slot: &Slot, alone: bool) -> Result<Life, BenchError> {
    process::check_interrupted()?;
    let wall = wall_offset();
    let request = now();
    let (pid, making) = runtime.create(slot)?;
    let created = now();
    let starting = runtime.verb("start", slot, &[])?;
    let living = runtime.wait(pid, "the program")?;
    let ended = now();
    // It goes with the container.
    let record = match runtime.kind {
        Kind::Plain => Record::default(),
        _ => Record::parse(&timeline(runtime, slot)?),
    };
    let deleting = now();
    let removing = runtime.verb("delete", slot, &[])?;
    let took = now().saturating_sub(deleting);
    if living.code != 0 {
        return Err(runtime.invalid(format!("its program ended with {}", living.code)));
    }
    let mut processor =
        [making, starting, living, removing].iter().map(|ended| ended.processor).sum();
    if alone {
        let rest = process::reap_rest();
        processor += rest.ok_or_else(|| runtime.invalid("it left processes behind"))?;
    }
    let stamp = Stamp::find(&slot.output());
    let stamp = stamp.ok_or_else(|| runtime.invalid("its program did not say when it began"))?;
    let mut life = Life {
        request,
        passed: [("created", created), ("exit", ended), ("deleted", ended + took)].into(),
        processor,
        instructions: None,
        clock_behind: None,
    };
    match &runtime.kind {
        Kind::Plain => {
            life.passed.insert("first-instruction", stamp.monotonic);
            inside(&life, stamp.monotonic).map_err(|why| runtime.invalid(why))?;
        }
        kind => {
            marks(&mut life, &record).map_err(|why| runtime.invalid(why))?;
            is_what_it_should_be(kind, &record).map_err(|why| runtime.invalid(why))?;
            let said = stamp.realtime.wrapping_sub(wall);
            let entry = life.passed.get("first-instruction").copied().unwrap_or_default();
            life.clock_behind = Some(entry.wrapping_sub(said).cast_signed());
            inside(&life, said).map_err(|why| runtime.invalid(why))?;
        }
    }
    Ok(life)
}

/// The file that the container's monitor has written.
fn timeline(runtime: &Runtime, slot: &Slot) -> Result<Vec<u8>, BenchError> {
    let path = runtime.root.join(&slot.id).join("timeline.json");
    match fs::metadata(&path) {
        Ok(file) if file.len() > MAX_FILE => Err(runtime.invalid("its timeline.json is too long")),
        _ => fs::read(&path).map_err(BenchError::host(format!("read {}", path.display()))),
    }
}

/// The steps of a microVM's start. All of them must be there, in order.
fn marks(life: &mut Life, record: &Record) -> Result<(), String> {
    let mut before = life.request;
    for (step, phase) in [
        ("vmm-spawned", "vmm-spawned"),
        ("kernel-entry", "first-kvm-run"),
        ("agent-ready", "agent-ready"),
        ("program-entry", "first-instruction"),
    ] {
        let at = record.at(step).ok_or_else(|| format!("its timeline has no {step}"))?;
        if at < before {
            return Err(format!("{phase} is before what precedes it"));
        }
        life.passed.insert(phase, at);
        before = at;
    }
    life.instructions = record.instructions("program-entry");
    if before > life.passed.get("exit").copied().unwrap_or_default() {
        return Err("its first instruction is after its end".into());
    }
    Ok(())
}

/// The first instruction, as the program saw it, was between the request and the program's end.
fn inside(life: &Life, at: u64) -> Result<(), String> {
    let end = life.passed.get("exit").copied().unwrap_or_default();
    if (life.request..=end).contains(&at) {
        return Ok(());
    }
    let off = if at < life.request { life.request - at } else { at - end };
    let side = if at < life.request { "before the request" } else { "after the program's end" };
    Err(format!("by its own clock the program began {} µs {side}", off / 1000))
}

/// A clone's guest holds the nonce of the bench's own template, and a guest that booted holds none.
fn is_what_it_should_be(kind: &Kind, record: &Record) -> Result<(), String> {
    match (kind, &record.template) {
        (Kind::Clone { templates }, Some(seen)) => {
            only_one(templates)?;
            let nonce = planted(&templates.join(&seen.key).join("template.json"))?;
            if seen.nonce.as_deref() == Some(&nonce) {
                return Ok(());
            }
            let said = seen.nonce.as_deref().unwrap_or("none");
            Err(format!("its guest holds the nonce {said} and the template {nonce}"))
        }
        (Kind::Clone { .. }, None) => Err("it was booted and not cloned".into()),
        (_, Some(seen)) => Err(format!("it was cloned of template {} and not booted", seen.key)),
        (_, None) => Ok(()),
    }
}

/// The bench's template is still the only one: no start of a clone had to make another.
fn only_one(templates: &Path) -> Result<(), String> {
    let entries = fs::read_dir(templates).into_iter().flatten();
    let made = entries.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().join("template.json").exists())
    });
    if made.count() > 1 {
        let why = "another template was made: the kernel, the agent or the VMM was replaced";
        return Err(format!("{why} while the bench ran"));
    }
    Ok(())
}

/// The nonce in a template's description.
fn planted(path: &Path) -> Result<String, String> {
    let unreadable = |why: String| format!("its template {}: {why}", path.display());
    let text = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    let nonce = value.get("nonce").and_then(serde_json::Value::as_str).unwrap_or_default();
    if nonce.len() < 32 {
        return Err(unreadable("it has no nonce".into()));
    }
    Ok(nonce.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn life() -> Life {
        Life {
            request: 100,
            passed: [("created", 500), ("exit", 900), ("deleted", 950)].into(),
            processor: Duration::ZERO,
            instructions: None,
            clock_behind: None,
        }
    }

    fn record(steps: &[(&str, u64)]) -> Record {
        let steps = steps.iter().map(|(step, at)| json!({ "step": step, "at": at }));
        Record::parse(json!(steps.collect::<Vec<_>>()).to_string().as_bytes())
    }

    #[test]
    fn the_stamp_must_lie_in_the_measured_interval() {
        assert!(inside(&life(), 100).is_ok() && inside(&life(), 900).is_ok());
        assert!(inside(&life(), 99).unwrap_err().contains("before the request"));
        assert!(inside(&life(), 5901).unwrap_err().contains("5 µs after the program's end"));
    }

    #[test]
    fn all_marks_must_be_there_in_order() {
        let all = [
            ("vmm-spawned", 110),
            ("kernel-entry", 120),
            ("agent-ready", 300),
            ("program-entry", 600),
        ];
        let mut good = life();
        marks(&mut good, &record(&all)).unwrap();
        assert_eq!(good.passed["first-instruction"], 600);
        for (at, value) in [(0, 99), (2, 119), (3, 901)] {
            let mut bad = all;
            bad[at].1 = value;
            assert!(marks(&mut life(), &record(&bad)).is_err(), "{bad:?}");
        }
        assert!(marks(&mut life(), &record(&all[..3])).unwrap_err().contains("no program-entry"));
    }

    #[test]
    fn a_clone_holds_its_templates_nonce_and_a_boot_none() {
        let dir = tempfile::tempdir().unwrap();
        let nonce = "0123456789abcdef0123456789abcdef";
        fs::create_dir(dir.path().join("k")).unwrap();
        let file = dir.path().join("k/template.json");
        fs::write(&file, json!({ "nonce": nonce }).to_string()).unwrap();
        let clone = Kind::Clone { templates: dir.path().into() };
        let seen = |nonce: serde_json::Value| {
            let text = json!({ "steps": [], "template": { "key": "k", "nonce": nonce } });
            Record::parse(text.to_string().as_bytes())
        };
        assert_eq!(is_what_it_should_be(&clone, &seen(json!(nonce))), Ok(()));
        assert_eq!(is_what_it_should_be(&Kind::Cold, &Record::default()), Ok(()));
        for bad in [json!("another"), json!(null)] {
            assert!(is_what_it_should_be(&clone, &seen(bad)).is_err());
        }
        assert!(is_what_it_should_be(&clone, &Record::default()).unwrap_err().contains("booted"));
        assert!(is_what_it_should_be(&Kind::Cold, &seen(json!(nonce))).is_err());
        fs::create_dir(dir.path().join("other")).unwrap();
        fs::write(dir.path().join("other/template.json"), "{}").unwrap();
        let twice = is_what_it_should_be(&clone, &seen(json!(nonce)));
        assert!(twice.unwrap_err().contains("replaced while the bench ran"));
        fs::remove_dir_all(dir.path().join("other")).unwrap();
        fs::write(&file, "{}").unwrap();
        assert!(is_what_it_should_be(&clone, &seen(json!(nonce))).is_err());
    }
}
