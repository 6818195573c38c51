//! Figures of what orders cost.

use std::collections::BTreeMap;

use super::{Area, Costs, Form, Step, follow::Cost};
use crate::{
    bench::report::{Better, Group, Measure, Plot, Unit},
    settings::Isolation,
};

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
    /// Of which steps.
    of: fn(Area, Form) -> bool,
}

#[allow(clippy::cast_precision_loss, reason = "far less than 2^52 of anything")]
const FIGURES: [Figure; 5] = [
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
        of: |_, _| true,
    },
    Figure {
        key: "time",
        name: |_, _| ", each",
        unit: |_| Unit::Milliseconds,
        better: Better::Lower,
        value: |cost, units, _| cost.seconds * 1e3 / units,
        machine: false,
        of: |area, form| area == Area::Network && form == Form::Things,
    },
    Figure {
        key: "processor",
        name: |_, _| ", host processor time",
        unit: |_| Unit::Milliseconds,
        better: Better::Lower,
        value: |cost, _, _| cost.processor.as_secs_f64() * 1e3,
        machine: false,
        of: |_, _| true,
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
        of: |_, _| true,
    },
    Figure {
        key: "requests",
        name: |area, form| match (area, form) {
            (Area::Streams, Form::Bytes) => ", vsock packets for 4 KiB",
            (Area::Streams, Form::Things) => ", vsock packets for each",
            (Area::Network, Form::Bytes) => ", frames for 4 KiB",
            (Area::Network, Form::Things) => ", frames for each",
            (_, Form::Bytes) => ", device requests for 4 KiB",
            (_, Form::Things) => ", device requests for each",
        },
        unit: |_| Unit::Count,
        better: Better::Lower,
        value: |cost, units, _| cost.requests as f64 / units,
        machine: true,
        of: |_, _| true,
    },
];

/// The figures of the steps of an area.
pub(in crate::bench) fn group(area: Area, steps: &[Step], costs: &Costs) -> Group {
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
        Area::Network => (
            "network",
            "A network",
            "between the container and a peer at the other end of a veth; of a microVM: a tap beside the veth, tc between the two, a virtio network card",
        ),
    };
    let mut group = Group::new(key, title, about);
    for figure in &FIGURES {
        let figured = |step: &&Step| step.area == area && (figure.of)(area, step.form);
        for step in steps.iter().filter(figured) {
            let measure = measured(figure, step, costs);
            if !measure.samples.is_empty() {
                group.measures.push(measure);
            }
        }
    }
    let rates = |form: Form| {
        let steps = steps.iter().filter(move |step| step.area == area && step.form == form);
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
    use std::time::Duration;

    use bulkhead_scout::Done;

    use super::{super::beyond, *};

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
        let group = group(Area::Share, crate::bench::io::STEPS, &costs);
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
        let group = group(Area::Streams, crate::bench::io::STEPS, &costs);
        assert!(group.measure("echo-instructions").is_none());
        assert!(group.measure("echo-requests").is_some());
    }
}
