//! `bulkhead bench isolation`: one set of probes in every isolation, side by side: what a hostile program could see and reach.
//!
//! The scout looks around in each container and makes attempts that harm nothing. Whose the things are that it found is not for it to say: the
//! bench compares its kernel and namespaces with the host's, and puts things on the host for it to find. First a scout outside of any container
//! has to find them all; else nobody's not finding them would prove anything.

mod canary;
mod compare;
pub(super) mod profile;
mod trace;
pub(super) mod visit;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bulkhead_scout::{Hints, Outcome, Report as Seen};
pub use profile::Profile;

use self::{canary::Canaries, compare::Column, profile::Names, visit::hear};
use super::{
    BenchError,
    progress::Steps,
    report::{Kind, Report},
    runtime::{Runtime, Slot},
    stage::{Mode, Peer, Stage, leave_hybrid},
    talk::Talk,
};
use crate::settings::{Isolation, Settings};

/// What is wanted.
#[derive(Debug)]
pub struct Options {
    /// An image's name or source.
    pub image: String,
    /// Bulkhead's isolations; both, when empty.
    pub isolations: Vec<Isolation>,
    /// What containers may do; each, when empty.
    pub profiles: Vec<Profile>,
    /// Other runtimes.
    pub peers: Vec<Peer>,
    /// How long a verb or an answer of the scout may take.
    pub limit: Duration,
}

/// A runtime, and the isolation that its configuration is made for.
type Wall = (Runtime, Isolation);

/// Looks.
///
/// # Errors
/// [`BenchError`]; everything that was started is removed.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let scout = Settings::load()?.scout()?;
    let mut stage = Stage::open(&options.image, options.limit)?;
    let mut notes = Vec::new();
    let walls = walls(&mut stage, options, &mut notes)?;
    let runtimes: Vec<Runtime> = walls.iter().map(|(runtime, _)| runtime.clone()).collect();
    let name = stage.image.names.first().unwrap_or(&options.image);
    let title = format!("Isolation, seen from inside of {name}");
    let mut report = Report::new(Kind::Isolation, &title, stage.facts(&runtimes));

    let scout = own_copy(&scout, &stage)?;
    let canaries = Canaries::plant(&scout, &stage.file(""))
        .map_err(BenchError::host("put things on the host to be looked for"))?;
    let (work, program) = (stage.file(""), std::env::current_exe().unwrap_or_default());
    let hints = canaries.hints(&[&work, program.parent().unwrap_or(Path::new("/"))]);
    let outside = control(&scout, &hints, options.limit)?;
    notes.extend(unproved(&outside, canaries.has_key())?);

    let profiles = match options.profiles.as_slice() {
        [] => &[Profile::Default, Profile::Privileged],
        some => some,
    };
    let mut columns = Vec::new();
    let steps = Steps::new(walls.len() as u64 * profiles.len() as u64);
    for (runtime, isolation) in &walls {
        for profile in profiles {
            let column = Place { stage: &stage, scout: &scout, runtime, isolation: *isolation };
            let (key, name) = column.subject(*profile);
            steps.begin(&name);
            match column.look(&key, &name, *profile, &hints) {
                Ok(seen) => {
                    report.subject(&key, &name, column.about(*profile));
                    columns.push(seen);
                }
                Err(stopped @ BenchError::Interrupted(_)) => return Err(stopped),
                // One that cannot be looked at does not hide the others.
                Err(error) => notes.push(format!("{name} is left out: {error}")),
            }
            steps.done();
        }
    }
    if columns.is_empty() {
        return Err(BenchError::Usage(notes.join("; ")));
    }
    for column in &columns {
        if let Err(why) = &column.calls {
            notes.push(format!("{}: its calls on the host were not counted: {why}", column.key));
        }
    }
    report.groups = compare::groups(&columns, &outside);
    report.notes = notes;
    Ok(report)
}

fn walls(
    stage: &mut Stage,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Vec<Wall>, BenchError> {
    let wants =
        |isolation| options.isolations.is_empty() || options.isolations.contains(&isolation);
    let mut walls = Vec::new();
    for (isolation, mode) in [(Isolation::Vm, Mode::Cold), (Isolation::Host, Mode::Host)] {
        if !wants(isolation) {
            continue;
        }
        if isolation == Isolation::Vm && !Path::new("/dev/kvm").exists() {
            notes.push("vm is left out: there is no /dev/kvm".into());
            continue;
        }
        let runtime = stage.own(mode)?;
        let name = isolation.name().to_owned();
        walls.push((Runtime { key: name.clone(), name, ..runtime }, isolation));
    }
    for peer in &options.peers {
        walls.push((stage.peer(peer)?, Isolation::Host));
    }
    if !options.peers.is_empty() && leave_hybrid()? {
        notes.push("The host's empty tree of cgroup v2 was hidden from all: crun refuses hosts with both versions.".into());
    }
    if walls.is_empty() {
        return Err(BenchError::Usage(notes.join("; ")));
    }
    Ok(walls)
}

/// On the file system where the canary is, so that a container's mount of it is a mount of that.
fn own_copy(scout: &Path, stage: &Stage) -> Result<PathBuf, BenchError> {
    let copy = stage.file("scout");
    let copied = fs::copy(scout, &copy);
    copied.map_err(BenchError::host(format!("copy {}", scout.display())))?;
    Ok(copy)
}

/// What a scout sees that nothing holds.
fn control(scout: &Path, hints: &Hints, limit: Duration) -> Result<Seen, BenchError> {
    let (mut talk, input, output) = Talk::new("the scout outside of containers", limit)?;
    let child = Command::new(scout).arg("control").stdin(input).stdout(output).spawn();
    let mut child = child.map_err(|source| BenchError::Program {
        what: "the scout".into(),
        path: scout.into(),
        source,
    })?;
    let seen = hear(&mut talk, hints);
    drop(talk);
    if seen.is_err() {
        // It may have ended.
        let _ = child.kill();
    }
    child.wait().map_err(BenchError::host("wait for the scout"))?;
    seen
}

/// The canaries that even the scout outside does not find prove nothing: an error where every host has them, otherwise a note.
fn unproved(outside: &Seen, has_key: bool) -> Result<Option<String>, BenchError> {
    let found = |name: &str| outside.attempts.get(name) == Some(&Outcome::Allowed);
    for (name, what) in
        [("host-file", "file"), ("host-socket", "socket"), ("host-process", "process")]
    {
        if !found(name) {
            let why = format!(
                "outside of any container it does not find the {what} that was put there: {:?}",
                outside.attempts.get(name)
            );
            return Err(BenchError::Invalid { runtime: "the scout".into(), why });
        }
    }
    let missing: Vec<&str> = [("host-file-handle", "the file's number"), ("host-key", "the key")]
        .into_iter()
        .filter(|(name, _)| !found(name))
        .map(|(_, what)| what)
        .collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let key = if has_key { "" } else { " (this kernel takes none)" };
    Ok(Some(format!(
        "Outside of any container the scout does not find {}{key} either: that it is not found inside proves nothing.",
        missing.join(" and ")
    )))
}

/// Where one container is made.
#[derive(Debug)]
struct Place<'a> {
    stage: &'a Stage,
    scout: &'a Path,
    runtime: &'a Runtime,
    isolation: Isolation,
}

impl Place<'_> {
    /// Its key and its name.
    fn subject(&self, profile: Profile) -> (String, String) {
        let Runtime { key, name, .. } = self.runtime;
        match profile {
            Profile::Default => (key.clone(), name.clone()),
            Profile::Privileged => (format!("{key}-privileged"), format!("{name}, privileged")),
        }
    }

    fn about(&self, profile: Profile) -> &'static str {
        match (profile, self.isolation) {
            (Profile::Default, Isolation::Vm) => {
                "root in a microVM's container, as `bulkhead run` makes it"
            }
            (Profile::Default, Isolation::Host) if self.runtime.key != Isolation::Host.name() => {
                "a peer: the same configuration as that of host"
            }
            (Profile::Default, Isolation::Host) => {
                "root in a container on the host's kernel, as `bulkhead run --isolation host` makes it"
            }
            (Profile::Privileged, _) => {
                "the same with all capabilities, every device, no filter of system calls, nothing masked or read-only"
            }
        }
    }

    fn look(
        &self,
        key: &str,
        name: &str,
        profile: Profile,
        hints: &Hints,
    ) -> Result<Column, BenchError> {
        let id = format!("bench-{}-{key}", std::process::id());
        let names = Names {
            work: &self.stage.file(""),
            scout: self.scout,
            word: "isolation",
            cgroup: &format!("/bulkhead-{id}"),
        };
        let config = profile::config(&self.stage.image, &names, self.isolation, profile)?;
        let slot = Slot { bundle: self.stage.file(key), id };
        visit::bundle(&slot.bundle, &config)?;
        let runtime = Runtime { name: name.to_owned(), ..self.runtime.clone() };
        let seen = visit::visit(&runtime, &slot, hints)?;
        Ok(Column { key: key.to_owned(), seen: seen.seen, calls: seen.calls })
    }
}
