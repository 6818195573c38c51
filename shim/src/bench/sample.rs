//! A small report for tests of what shows reports.

use super::report::{Better, Fact, Finding, Group, Kind, Plot, Quantity, Report, Unit};

/// A report with everything that a report can have.
pub(super) fn report() -> Report {
    const READY: Quantity = Quantity::lower("agent-ready", "agent ready", Unit::Milliseconds);
    const ENTRY: Quantity =
        Quantity::lower("program-entry", "program's first instruction", Unit::Milliseconds);
    const MEMORY: Quantity = Quantity::lower("pss", "memory of all processes", Unit::Bytes);
    let fact = |key: &str, name: &str, value: &str| Fact {
        key: key.into(),
        name: name.into(),
        value: value.into(),
    };
    let host =
        vec![fact("kernel", "kernel", "Linux 6.1"), fact("kvm", "KVM", "hardware <b>\u{1b}[31m")];
    let mut report = Report::new(Kind::Startup, "Start-up of busybox & co", host);
    report.made = "2026-01-02T03:04:05Z".parse().unwrap();
    report.arguments = vec!["bulkhead".into(), "bench".into()];
    report.subject("vm-clone", "vm, clone", "a microVM cloned from a template");
    report.subject("runc", "runc", "a peer");
    let mut phases = Group::new("phases", "Phases", "since the request");
    for (ready, entry) in [(60.0, 100.0), (61.0, 98.0), (59.5, 102.0), (70.0, 120.0)] {
        phases.add(&READY, "vm-clone", ready);
        phases.add(&ENTRY, "vm-clone", entry);
    }
    for entry in [30.0, 31.0, 33.0, 32.0] {
        phases.add(&ENTRY, "runc", entry);
    }
    phases.plots = vec![
        Plot::Stacked {
            title: "Phases of a start".into(),
            measures: vec!["agent-ready".into(), "program-entry".into()],
        },
        Plot::Cdf { title: "First instruction".into(), measure: "program-entry".into() },
    ];
    let mut memory = Group::new("memory", "Memory", "");
    for (subject, size) in [("vm-clone", 12.0), ("runc", 1.0), ("vm-clone", 13.0)] {
        memory.add(&MEMORY, subject, size * 1_048_576.0);
    }
    memory.plots = vec![
        Plot::Bars { title: "Memory".into(), measures: vec!["pss".into()] },
        Plot::Line {
            title: "Memory of each".into(),
            measure: "pss".into(),
            across: "containers".into(),
        },
    ];
    let mut seen = Group::new("seen", "Seen", "");
    seen.findings.push(Finding {
        key: "kernel".into(),
        name: "kernel seen".into(),
        values: [("vm-clone", "6.12 (guest)"), ("runc", "6.1 (host)")]
            .map(|(key, value)| (key.into(), value.into()))
            .into(),
        bad: vec!["runc".into()],
    });
    assert_eq!(phases.measures[0].better, Better::Lower);
    report.groups = vec![phases, memory, seen];
    report.notes.push("A host that interprets.".into());
    report
}
