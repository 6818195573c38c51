//! `bulkhead bench net`: a container's network in a microVM and on the host's kernel, in turns. Both have a veth, as engines and CNI plugins make them; on
//! the host's kernel there is nothing else.

mod container;
mod far;
mod steps;
mod wire;

use std::fs;

pub use super::orders::Options;

use self::{container::Container, steps::STEPS};
use super::{
    BenchError,
    orders::{Area, group, measure},
    report::{Kind, Report},
    stage::{Mode, Stage},
};
use crate::settings::{Isolation, Settings};

/// Measures.
///
/// # Errors
/// [`BenchError`]; everything that was started is removed.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let scout = Settings::load()?.scout()?;
    let mut stage = Stage::open(&options.image, options.limit)?;
    let program = stage.file("scout");
    fs::copy(&scout, &program).map_err(BenchError::host(format!("copy {}", scout.display())))?;
    let mut notes = Vec::new();
    let mut runtimes = Vec::new();
    for (isolation, mode, about) in [
        (
            Isolation::Vm,
            Mode::Cold,
            "a microVM: a veth, a tap beside it, tc between the two, a virtio network card",
        ),
        (Isolation::Host, Mode::Host, "a plain container: a veth alone"),
    ] {
        if !options.wants(isolation, &mut notes) {
            continue;
        }
        runtimes.push((stage.own(mode)?, isolation, about));
    }
    if runtimes.is_empty() {
        return Err(BenchError::Usage(notes.join("; ")));
    }
    let all: Vec<_> = runtimes.iter().map(|(runtime, ..)| runtime.clone()).collect();
    let title = format!("The network of {}", options.image);
    let mut report = Report::new(Kind::Net, &title, stage.facts(&all));
    let mut containers = Vec::new();
    for (runtime, isolation, about) in runtimes {
        containers.push(Container::start(&stage, runtime, isolation, &program)?);
        report.subject(isolation.name(), isolation.name(), about);
    }
    let mut scouts: Vec<_> = containers.iter_mut().map(|container| &mut container.scout).collect();
    let costs = measure(&mut scouts, STEPS, options.rounds, (options.bytes, options.count))?;
    for container in containers {
        container.end()?;
    }
    report.groups = vec![group(Area::Network, STEPS, &costs)];
    notes.push(format!(
        "Each step was done {} times in one container of each isolation, in turns. The peer is a thread of the bench on this host, at the other end of the veth.",
        options.rounds
    ));
    notes.push("The host does a plain container's part of the protocols in whatever process it interrupts: the container's processor time does not have all of it.".into());
    report.notes = notes;
    Ok(report)
}
