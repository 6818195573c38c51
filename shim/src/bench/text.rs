//! A report on a terminal.

use std::io::{self, Write};

use super::{
    report::{Group, Report},
    stats::Summary,
};
use crate::{commands::table::Table, text::printable};

/// Writes all of a report.
///
/// # Errors
/// That of the writer.
pub fn write(report: &Report, to: &mut impl Write) -> io::Result<()> {
    writeln!(to, "{}", printable(&report.title))?;
    let widest = report.host.iter().map(|fact| fact.name.chars().count()).max().unwrap_or(0);
    for fact in &report.host {
        writeln!(to, "  {:<widest$}  {}", printable(&fact.name), printable(&fact.value))?;
    }
    for subject in report.subjects.iter().filter(|subject| !subject.about.is_empty()) {
        writeln!(to, "  {}: {}", printable(&subject.name), printable(&subject.about))?;
    }
    for group in &report.groups {
        writeln!(to, "\n{}", printable(&group.title))?;
        if !group.about.is_empty() {
            writeln!(to, "  {}", printable(&group.about))?;
        }
        if !group.measures.is_empty() {
            measures(report, group).write(to)?;
        }
        if !group.findings.is_empty() {
            findings(report, group).write(to)?;
        }
    }
    for note in &report.notes {
        writeln!(to, "\nnote: {}", printable(note))?;
    }
    Ok(())
}

/// A row for each measure and subject, so that what is to be compared is in one column.
fn measures(report: &Report, group: &Group) -> Table {
    let mut table = Table::new(&["", "", "n", "min", "p50", "p90", "p99", "max"]);
    for measure in &group.measures {
        let mut first = true;
        for subject in &report.subjects {
            let Some(samples) = measure.samples.get(&subject.key) else { continue };
            let Some(summary) = Summary::of(samples) else { continue };
            let name = if first { measure.name.clone() } else { String::new() };
            first = false;
            let mut row = vec![name, subject.name.clone(), samples.len().to_string()];
            let figures = [summary.min, summary.p50, summary.p90, summary.p99, summary.max];
            row.extend(figures.map(|figure| measure.unit.show(figure)));
            table.row(row);
        }
    }
    table
}

/// A column for each subject. What is bad news for one has a mark.
fn findings(report: &Report, group: &Group) -> Table {
    let has = |key: &String| group.findings.iter().any(|finding| finding.values.contains_key(key));
    let subjects: Vec<_> = report.subjects.iter().filter(|subject| has(&subject.key)).collect();
    let names = subjects.iter().map(|subject| subject.name.as_str());
    let mut table = Table::new(&[""].into_iter().chain(names).collect::<Vec<_>>());
    for finding in &group.findings {
        let cells = subjects.iter().map(|subject| {
            let value = finding.values.get(&subject.key).map_or("-", String::as_str);
            if finding.bad.contains(&subject.key) { format!("! {value}") } else { value.into() }
        });
        table.row([finding.name.clone()].into_iter().chain(cells).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    #[test]
    fn a_report_has_its_host_its_figures_and_its_findings() {
        let mut out = Vec::new();
        write(&sample::report(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in [
            "  kernel  Linux 6.1",
            "program's first instruction   vm, clone   4   98.0 ms   101 ms    120 ms    120 ms    120 ms",
            "                              runc        4   30.0 ms",
            "note: A host that interprets.",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("kernel seen   6.12 (guest)   ! 6.1 (host)"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
