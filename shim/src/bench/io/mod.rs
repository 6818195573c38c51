//! `bulkhead bench io`: files and streams of a container in a microVM and on the host's kernel, in turns: the image's disk and the writable layer,
//! a shared directory, standard input and output.

mod container;
mod steps;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bulkhead_scout::Order;

use self::{
    container::{Container, Cost, Making, Of},
    steps::{Area, Form, LARGE, STEPS, Sizes, Step},
};
use super::{
    BenchError, host, process,
    progress::Steps,
    report::{Better, Group, Kind, Measure, Plot, Report, Unit},
    work::Work,
};
use crate::settings::{Isolation, Settings};

/// What is wanted.
#[derive(Debug)]
pub struct Options {
    /// An image's name or source.
    pub image: String,
    /// The isolations; both, when empty.
    pub isolations: Vec<Isolation>,
    /// Times that each step is done.
    pub rounds: u64,
    /// Bytes of what is large.
    pub bytes: u64,
    /// How many of what is small.
    pub count: u64,
    /// How long an answer may take.
    pub limit: Duration,
}

/// Measures.
///
/// # Errors
/// [`BenchError`]; everything that was started is removed.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let settings = Settings::load()?;
    let scout = settings.scout()?;
    process::prepare()?;
    let work = Work::new(&settings)?;
    let (program, share, files) = (work.file("program"), work.file("share"), work.file(""));
    prepare(&scout, &program, &share, options)?;
    let mut notes = Vec::new();
    let title = format!("Files and streams of {}", options.image);
    let mut report = Report::new(Kind::Io, &title, host::facts());
    let making = Making {
        settings: &settings,
        image: &options.image,
        scout: &program,
        share: &share,
        files: &files,
        limit: options.limit,
    };
    let mut containers = Vec::new();
    for (isolation, about) in [
        (
            Isolation::Vm,
            "bulkhead run: an EROFS disk of the image and an ext4 disk over it, virtio-fs, streams over vsock",
        ),
        (
            Isolation::Host,
            "bulkhead run --isolation host: the same image and a directory over it, a bind mount, pipes",
        ),
    ] {
        if !options.isolations.is_empty() && !options.isolations.contains(&isolation) {
            continue;
        }
        if isolation == Isolation::Vm && !Path::new("/dev/kvm").exists() {
            notes.push("vm is left out: there is no /dev/kvm".into());
            continue;
        }
        containers.push(Container::start(&making, isolation)?);
        report.subject(isolation.name(), isolation.name(), about);
    }
    if containers.is_empty() {
        return Err(BenchError::Usage(notes.join("; ")));
    }
    let costs = measure(&mut containers, options)?;
    for container in containers {
        container.end()?;
    }
    report.groups =
        [Area::Block, Area::Share, Area::Streams].map(|area| group(area, &costs)).into();
    notes.push(format!(
        "Each step was done {} times in one container of each isolation, in turns. The host's own cache may hold what a container reads for the first time.",
        options.rounds
    ));
    report.notes = notes;
    Ok(report)
}

/// The scout's directory, and a shared one for each isolation with a file to read.
fn prepare(
    scout: &Path,
    program: &Path,
    share: &Path,
    options: &Options,
) -> Result<(), BenchError> {
    let failed = || BenchError::host("make the bench's files");
    let shares = [Isolation::Vm, Isolation::Host].map(|isolation| share.join(isolation.name()));
    for directory in shares.iter().map(PathBuf::as_path).chain([program]) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(failed())?;
    }
    fs::copy(scout, program.join("scout")).map_err(failed())?;
    let length = options.bytes.saturating_mul(options.rounds);
    for share in shares {
        let mut large = fs::File::create(share.join(LARGE)).map_err(failed())?;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(7), length), &mut large)
            .map_err(failed())?;
    }
    Ok(())
}

/// What each step cost, by the step's key and the isolation.
type Costs = BTreeMap<(&'static str, &'static str), Vec<Cost>>;

fn measure(containers: &mut [Container], options: &Options) -> Result<Costs, BenchError> {
    let mut costs = Costs::new();
    let bar = Steps::new(options.rounds * STEPS.len() as u64);
    for round in 0..options.rounds {
        for step in STEPS {
            let sizes = Sizes { bytes: options.bytes, count: options.count, round };
            for container in &mut *containers {
                bar.begin(&format!("{}: {}", container.isolation, step.name));
                let idle = container.follow(&Order::Nothing, of(step.area))?;
                let cost = match container.follow(&step.order(&sizes), of(step.area)) {
                    Ok(cost) => cost,
                    // An image need not have so large a file.
                    Err(BenchError::Invalid { .. }) if step.key.starts_with("image") => continue,
                    Err(error) => return Err(error),
                };
                let of_step = costs.entry((step.key, container.isolation.name())).or_default();
                of_step.push(beyond(cost, &idle));
            }
            bar.done();
        }
    }
    Ok(costs)
}

/// Without what an order to do nothing costs. Its time stays with streams, which are measured from outside; it is next to nothing.
fn beyond(cost: Cost, idle: &Cost) -> Cost {
    Cost {
        instructions: cost.instructions.saturating_sub(idle.instructions),
        requests: cost.requests.saturating_sub(idle.requests),
        processor: cost.processor.saturating_sub(idle.processor),
        ..cost
    }
}

fn of(area: Area) -> Of {
    match area {
        Area::Block => |counters| counters.block_requests,
        Area::Share => |counters| counters.share_requests,
        Area::Streams => |counters| counters.vsock_packets,
    }
}

/// A figure of a step, by what it costs.
struct Figure {
    key: &'static str,
    name: fn(Area, Form) -> &'static str,
    unit: fn(Form) -> Unit,
    better: Better,
    /// For the number of units of cost that there were.
    value: fn(&Cost, f64, Form) -> f64,
    /// What only a microVM has.
    machine: bool,
}

#[allow(clippy::cast_precision_loss, reason = "far less than 2^52 of anything")]
const FIGURES: [Figure; 4] = [
    Figure {
        key: "rate",
        name: |_, _| "",
        unit: |form| if form == Form::Bytes { Unit::BytesPerSecond } else { Unit::PerSecond },
        better: Better::Higher,
        value: |cost, _, form| {
            let seconds = cost.seconds.max(1e-9);
            match form {
                Form::Bytes => cost.done.bytes as f64 / seconds,
                Form::Things => cost.done.operations as f64 / seconds,
            }
        },
        machine: false,
    },
    Figure {
        key: "processor",
        name: |_, _| ", host processor time",
        unit: |_| Unit::Milliseconds,
        better: Better::Lower,
        value: |cost, _, _| cost.processor.as_secs_f64() * 1e3,
        machine: false,
    },
    Figure {
        key: "instructions",
        name: |_, form| match form {
            Form::Bytes => ", guest-kernel instructions for 4 KiB",
            Form::Things => ", guest-kernel instructions for each",
        },
        unit: |_| Unit::Instructions,
        better: Better::Lower,
        value: |cost, units, _| cost.instructions as f64 / units,
        machine: true,
    },
    Figure {
        key: "requests",
        name: |area, form| match (area, form) {
            (Area::Streams, Form::Bytes) => ", vsock packets for 4 KiB",
            (Area::Streams, Form::Things) => ", vsock packets for each",
            (_, Form::Bytes) => ", device requests for 4 KiB",
            (_, Form::Things) => ", device requests for each",
        },
        unit: |_| Unit::Count,
        better: Better::Lower,
        value: |cost, units, _| cost.requests as f64 / units,
        machine: true,
    },
];

fn group(area: Area, costs: &Costs) -> Group {
    let (key, title, about) = match area {
        Area::Block => (
            "block",
            "The image and the writable layer",
            "of a microVM: virtio block devices; of a plain container: EROFS and overlayfs of the host's kernel",
        ),
        Area::Share => (
            "share",
            "A shared directory",
            "of a microVM: virtio-fs; of a plain container: a bind mount",
        ),
        Area::Streams => (
            "streams",
            "Standard input and output",
            "from `bulkhead run` to the program and back, by way of the container's keeper and its log; of a microVM also over vsock",
        ),
    };
    let mut group = Group::new(key, title, about);
    for figure in &FIGURES {
        for step in STEPS.iter().filter(|step| step.area == area) {
            let measure = measured(figure, step, costs);
            if !measure.samples.is_empty() {
                group.measures.push(measure);
            }
        }
    }
    let rates = |form: Form| {
        let steps = STEPS.iter().filter(move |step| step.area == area && step.form == form);
        steps.map(|step| format!("{}-rate", step.key)).collect()
    };
    group.plots = vec![
        Plot::Bars { title: format!("{title}: bytes a second"), measures: rates(Form::Bytes) },
        Plot::Bars { title: format!("{title}: how many a second"), measures: rates(Form::Things) },
    ];
    group
}

fn measured(figure: &Figure, step: &Step, costs: &Costs) -> Measure {
    let mut samples = BTreeMap::new();
    for ((key, subject), costs) in costs {
        let is_vm = *subject == Isolation::Vm.name();
        // Hardware counts no instructions.
        let counts = figure.key != "instructions" || costs.iter().any(|cost| cost.instructions > 0);
        if *key != step.key || (figure.machine && !(is_vm && counts)) {
            continue;
        }
        let values = costs.iter().filter_map(|cost| {
            let units = step.form.units(cost.done.operations, cost.done.bytes);
            (units > 0.0).then(|| (figure.value)(cost, units, step.form))
        });
        samples.insert((*subject).to_owned(), values.collect());
    }
    Measure {
        key: format!("{}-{}", step.key, figure.key),
        name: format!("{}{}", step.name, (figure.name)(step.area, step.form)),
        unit: (figure.unit)(step.form),
        better: figure.better,
        samples,
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_scout::Done;

    use super::*;

    fn cost(instructions: u64) -> Cost {
        Cost {
            done: Done { operations: 4, bytes: 8192, ..Done::default() },
            seconds: 0.5,
            processor: Duration::from_millis(20),
            instructions,
            requests: 8,
        }
    }

    #[test]
    fn figures_are_of_each_page_or_thing_and_without_the_order_itself() {
        let costs: Costs = [
            (
                ("share-read", "vm"),
                vec![beyond(
                    cost(1100),
                    &Cost { instructions: 100, requests: 2, ..Cost::default() },
                )],
            ),
            (("share-read", "host"), vec![cost(0)]),
            (("share-stat", "vm"), vec![cost(1000)]),
        ]
        .into();
        let group = group(Area::Share, &costs);
        let value = |key: &str, subject: &str| group.measure(key).unwrap().samples[subject][0];
        assert_eq!(value("share-read-rate", "vm"), 16384.0);
        assert_eq!(value("share-read-instructions", "vm"), 500.0);
        assert_eq!(value("share-read-requests", "vm"), 3.0);
        assert_eq!(value("share-stat-instructions", "vm"), 250.0);
        assert_eq!(value("share-stat-rate", "vm"), 8.0);
        assert_eq!(value("share-read-processor", "host"), 20.0);
        assert!(!group.measure("share-read-instructions").unwrap().samples.contains_key("host"));
        assert!(group.measure("share-write-rate").is_none());
    }

    #[test]
    fn hardware_has_no_instructions() {
        let costs: Costs = [(("echo", "vm"), vec![cost(0)])].into();
        let group = group(Area::Streams, &costs);
        assert!(group.measure("echo-instructions").is_none());
        assert!(group.measure("echo-requests").is_some());
    }
}
