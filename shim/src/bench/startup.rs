//! `bench startup`: the same bundle started by all runtimes in turns, A B C A B C …, so that whatever drifts on the host hits all alike.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    BenchError,
    idle::Idle,
    life::{Life, live},
    progress::Steps,
    report::{Group, Kind as ReportKind, Plot, Quantity, Report, Unit},
    runtime::{Kind, Runtime, Slot},
    stage::{Mode, Peer, Stage, leave_hybrid},
    stats::{median, sorted},
};
use crate::timeline::now;

/// The ends of a start's phases, in order. Those of a microVM come first.
pub const PHASES: [Quantity; 7] = [
    Quantity::lower("vmm-spawned", "VMM spawned", Unit::Milliseconds),
    Quantity::lower("first-kvm-run", "first KVM_RUN", Unit::Milliseconds),
    Quantity::lower("agent-ready", "agent ready", Unit::Milliseconds),
    Quantity::lower("created", "container created", Unit::Milliseconds),
    Quantity::lower("first-instruction", "program's first instruction", Unit::Milliseconds),
    Quantity::lower("exit", "program ended", Unit::Milliseconds),
    Quantity::lower("deleted", "container deleted", Unit::Milliseconds),
];
const PROCESSOR: Quantity =
    Quantity::lower("processor", "host processor time, user and system", Unit::Milliseconds);
const INSTRUCTIONS: Quantity = Quantity::lower(
    "instructions",
    "guest-kernel instructions to the program's first",
    Unit::Instructions,
);
const CLOCK: Quantity =
    Quantity::lower("clock-behind", "guest's wall clock behind the host's", Unit::Milliseconds);
const TEMPLATE: Quantity =
    Quantity::lower("template", "making the template, once", Unit::Milliseconds);
/// Idle containers whose memory is looked at do nothing for so long before.
const SETTLE: Duration = Duration::from_secs(1);

/// What is wanted.
#[derive(Debug)]
pub struct Options {
    /// An image's name or source.
    pub image: String,
    /// What the stamp's program becomes; with nothing it ends.
    pub command: Vec<String>,
    /// Starts of each runtime that count.
    pub runs: u32,
    /// Starts before them that do not.
    pub warm_up: u32,
    /// Idle containers of each runtime whose memory is measured.
    pub memory_runs: u32,
    /// Bulkhead's modes; all that the host can, when empty.
    pub modes: Vec<Mode>,
    /// Other runtimes.
    pub peers: Vec<Peer>,
    /// Numbers of containers to start at once.
    pub at_once: Vec<u16>,
    /// How long a verb or the program may take.
    pub limit: Duration,
}

/// Measures.
///
/// # Errors
/// [`BenchError`]; everything that was started is removed.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let mut stage = Stage::open(&options.image, options.limit)?;
    let mut notes = Vec::new();
    let mut runtimes = Vec::new();
    for mode in modes(&options.modes, &mut notes) {
        runtimes.push(stage.own(mode)?);
    }
    for peer in &options.peers {
        runtimes.push(stage.peer(peer)?);
    }
    if !options.peers.is_empty() && leave_hybrid()? {
        notes.push("The host has cgroup v1 and an empty tree of v2. The latter was hidden from all runtimes: crun refuses such a mixture.".into());
    }
    let slot = stage.slot("0", &options.command)?;
    let template = match make_template(&runtimes, &slot) {
        Err(error) if options.modes.is_empty() && !matches!(error, BenchError::Interrupted(_)) => {
            runtimes.retain(|runtime| !matches!(runtime.kind, Kind::Clone { .. }));
            notes.push(format!("Clones are left out: {error}"));
            None
        }
        made => made?,
    };
    let facts = stage.facts(&runtimes);
    let title = format!("Start-up of {}", stage.image.names.first().unwrap_or(&options.image));
    let mut report = Report::new(ReportKind::Startup, &title, facts);
    for runtime in &runtimes {
        report.subject(&runtime.key, &runtime.name, about(runtime));
    }
    let lives = lives(&runtimes, &slot, options)?;
    report.groups.push(phases(&lives));
    report.groups.push(costs(&lives, template));
    if options.memory_runs > 0 {
        report.groups.push(memory(&runtimes, &stage, options.memory_runs)?);
    }
    if !options.at_once.is_empty() {
        report.groups.push(at_once(&runtimes, &stage, options)?);
    }
    notes.extend(ratio(&report));
    if super::host::software_kvm() {
        notes.push("This host's KVM has no VT-x or AMD-V and interprets the guest's kernel, a thousand times slower than hardware. Compare only what was measured on one host in one run; instructions say more than milliseconds.".into());
    }
    report.notes = notes;
    Ok(report)
}

/// The modes to measure: those that were named, else all that this host can.
fn modes(wanted: &[Mode], notes: &mut Vec<String>) -> Vec<Mode> {
    let all = [Mode::Cold, Mode::Clone, Mode::Host];
    if !wanted.is_empty() {
        return all.into_iter().filter(|mode| wanted.contains(mode)).collect();
    }
    if Path::new("/dev/kvm").exists() {
        return all.into();
    }
    notes.push("MicroVMs are left out: there is no /dev/kvm; load kvm_intel or kvm_amd.".into());
    vec![Mode::Host]
}

fn about(runtime: &Runtime) -> &'static str {
    match runtime.kind {
        Kind::Cold => "bulkhead-oci: a microVM that boots; the bundle's root comes over virtio-fs",
        Kind::Clone { .. } => {
            "bulkhead-oci: a microVM cloned of a template; the bundle's root comes over virtio-fs"
        }
        Kind::Plain if runtime.key == "host" => {
            "bulkhead-oci: a plain container on the host's kernel"
        }
        Kind::Plain => "a peer: a plain container on the host's kernel",
    }
}

/// The first clone's request makes the template: that is measured apart.
fn make_template(runtimes: &[Runtime], slot: &Slot) -> Result<Option<f64>, BenchError> {
    let clones = runtimes.iter().find(|runtime| matches!(runtime.kind, Kind::Clone { .. }));
    let Some(runtime) = clones else { return Ok(None) };
    let steps = Steps::new(1);
    steps.begin("making a template");
    let begin = now();
    live(runtime, slot, true)?;
    Ok(Some(milliseconds(now().saturating_sub(begin))))
}

/// The lives of each runtime that count, in turns.
fn lives<'a>(
    runtimes: &'a [Runtime],
    slot: &Slot,
    options: &Options,
) -> Result<Vec<(&'a Runtime, Vec<Life>)>, BenchError> {
    let mut lives: Vec<(&Runtime, Vec<Life>)> =
        runtimes.iter().map(|runtime| (runtime, Vec::new())).collect();
    let rounds = u64::from(options.warm_up) + u64::from(options.runs);
    let steps = Steps::new(rounds * runtimes.len() as u64);
    for round in 0..rounds {
        for (runtime, lives) in &mut lives {
            let counts = round >= u64::from(options.warm_up);
            steps.begin(&format!("{}{}", runtime.name, if counts { "" } else { " (warm-up)" }));
            let life = live(runtime, slot, true)?;
            if counts {
                lives.push(life);
            }
            steps.done();
        }
    }
    Ok(lives)
}

fn phases(lives: &[(&Runtime, Vec<Life>)]) -> Group {
    let about = "Milliseconds from the request, which is the moment before create is executed, to the end of each phase. Of a microVM its monitor notes the phases; \
                 the others are seen from outside, for all alike: created is when create has returned, ended when the process that stands for the container was reaped, deleted when delete has returned.";
    let mut group = Group::new("phases", "Phases of a start", about);
    for quantity in &PHASES {
        for (runtime, lives) in lives {
            for life in lives {
                if let Some(at) = life.passed.get(quantity.key) {
                    let since = milliseconds(at.saturating_sub(life.request));
                    group.add(quantity, &runtime.key, since);
                }
            }
        }
    }
    let measures = PHASES.iter().map(|quantity| quantity.key.to_owned()).collect();
    group.plots = vec![
        Plot::Stacked { title: "From request to removal, medians".into(), measures },
        Plot::Cdf {
            title:
                "Request to the program's first instruction: part of the starts that took no longer"
                    .into(),
            measure: "first-instruction".into(),
        },
    ];
    group
}

fn costs(lives: &[(&Runtime, Vec<Life>)], template: Option<f64>) -> Group {
    let about = "Processor time of all processes of a container's life: the runtime's verbs, monitor, VMM with its guest, the program. Each is reaped by this bench, or by one that is (wait4); \
                 threads of the kernel are nobody's. Instructions are counted by KVM where it interprets the guest's kernel.";
    let mut group = Group::new("costs", "What a start costs", about);
    for (runtime, lives) in lives {
        for life in lives {
            group.add(&PROCESSOR, &runtime.key, life.processor.as_secs_f64() * 1e3);
        }
    }
    for (runtime, lives) in lives {
        for count in lives.iter().filter_map(|life| life.instructions) {
            #[allow(clippy::cast_precision_loss, reason = "fewer than 2^52 instructions")]
            group.add(&INSTRUCTIONS, &runtime.key, count as f64);
        }
    }
    for (runtime, lives) in lives {
        for behind in lives.iter().filter_map(|life| life.clock_behind) {
            #[allow(clippy::cast_precision_loss, reason = "less than 2^52 ns off")]
            group.add(&CLOCK, &runtime.key, behind as f64 / 1e6);
        }
    }
    if let Some(took) = template {
        group.add(&TEMPLATE, "clone", took);
    }
    let bars =
        |title: &str, key: &str| Plot::Bars { title: title.into(), measures: vec![key.to_owned()] };
    group.plots.push(bars("Host processor time of a life", "processor"));
    if group.measure("instructions").is_some() {
        group.plots.push(bars("Guest-kernel instructions of a start", "instructions"));
    }
    group
}

fn memory(runtimes: &[Runtime], stage: &Stage, runs: u32) -> Result<Group, BenchError> {
    let slot = stage.slot("idle", &["--hold".into()])?;
    let mut group = Idle::group("memory", "Memory of a container whose program waits");
    let steps = Steps::new(u64::from(runs) * runtimes.len() as u64);
    for _ in 0..runs {
        for runtime in runtimes {
            steps.begin(&format!("memory: {}", runtime.name));
            let idle = Idle::start(runtime, &slot)?;
            let sample = idle.measure(SETTLE);
            idle.end(true)?;
            sample?.add_to(&mut group, &runtime.key);
            steps.done();
        }
    }
    Ok(group)
}

/// Lives side by side: how many a second.
fn at_once(runtimes: &[Runtime], stage: &Stage, options: &Options) -> Result<Group, BenchError> {
    let about = "Whole lives, from request to removal, by so many workers that each begin the next when one is over; how many a second, and how long one start then takes.";
    let mut group = Group::new("at-once", "Several at once", about);
    let mut keys = Vec::new();
    let steps = Steps::new(options.at_once.len() as u64 * runtimes.len() as u64);
    for workers in options.at_once.iter().copied() {
        let slots: Result<Vec<Slot>, BenchError> = (0..workers)
            .map(|number| stage.slot(&format!("at-once-{number}"), &options.command))
            .collect();
        let slots = slots?;
        // Each worker has as much to do.
        let count = options.runs.div_ceil(u32::from(workers)) * u32::from(workers);
        for runtime in runtimes {
            steps.begin(&format!("{workers} at once: {}", runtime.name));
            let begin = now();
            let lives = side_by_side(runtime, &slots, count)?;
            let took = milliseconds(now().saturating_sub(begin)) / 1e3;
            let rate = rate(workers);
            group.add(&rate, &runtime.key, f64::from(count) / took);
            if !keys.contains(&rate.key.to_owned()) {
                keys.push(rate.key.to_owned());
            }
            for life in lives {
                if let Some(at) = life.passed.get("first-instruction") {
                    let since = milliseconds(at.saturating_sub(life.request));
                    group.add(&latency(workers), &runtime.key, since);
                }
            }
            steps.done();
        }
    }
    group.plots = vec![Plot::Bars { title: "Lives a second".into(), measures: keys }];
    Ok(group)
}

/// Quantities have names that live as long as the program; there are few numbers of workers.
fn named(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn rate(workers: u16) -> Quantity {
    let (key, name) = (format!("rate-{workers}"), format!("lives a second, {workers} at once"));
    Quantity::higher(named(key), named(name), Unit::PerSecond)
}

fn latency(workers: u16) -> Quantity {
    let key = format!("first-instruction-{workers}");
    let name = format!("program's first instruction, {workers} at once");
    Quantity::lower(named(key), named(name), Unit::Milliseconds)
}

fn side_by_side(runtime: &Runtime, slots: &[Slot], count: u32) -> Result<Vec<Life>, BenchError> {
    let (done, failed) = (AtomicU32::new(0), AtomicBool::new(false));
    let results = Mutex::new(Vec::new());
    let alone = slots.len() == 1;
    thread::scope(|scope| {
        for slot in slots {
            scope.spawn(|| {
                let more = || {
                    !failed.load(Ordering::Relaxed) && done.fetch_add(1, Ordering::Relaxed) < count
                };
                while more() {
                    let life = live(runtime, slot, alone);
                    failed.fetch_or(life.is_err(), Ordering::Relaxed);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(life);
                }
            });
        }
    });
    if !alone && super::process::reap_rest().is_none() {
        return Err(runtime.invalid("it left processes behind"));
    }
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

/// What templates are for.
fn ratio(report: &Report) -> Option<String> {
    let group = report.groups.iter().find(|group| group.key == "costs")?;
    let samples = &group.measure("instructions")?.samples;
    let (cold, clone) = (samples.get("cold")?, samples.get("clone")?);
    let (cold, clone) = (median(&sorted(cold))?, median(&sorted(clone))?);
    Some(format!(
        "A clone's start takes {:.1} times fewer guest-kernel instructions than a boot: {} and {} (medians).",
        cold / clone,
        Unit::Instructions.show(clone),
        Unit::Instructions.show(cold)
    ))
}

/// Nanoseconds as milliseconds.
pub(super) fn milliseconds(nanoseconds: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a bench takes less than 2^52 ns, 52 days")]
    let nanoseconds = nanoseconds as f64;
    nanoseconds / 1e6
}
