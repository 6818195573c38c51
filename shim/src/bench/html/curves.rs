//! Lines: how samples are distributed, and how they follow each other.

use super::{
    axis::Axis,
    svg::{Drawing, LEFT, RIGHT, WIDTH, colour, legend},
};
use crate::bench::{
    report::{Group, Report, Unit},
    stats::{count, sorted},
};

const TOP: f64 = 10.0;
const BOTTOM: f64 = 260.0;

/// A subject's number, name and samples.
type Curve<'a> = (usize, &'a str, &'a [f64]);

fn curves<'a>(report: &'a Report, group: &'a Group, key: &str) -> Vec<Curve<'a>> {
    let Some(measure) = group.measure(key) else { return Vec::new() };
    let subjects = report.subjects.iter().enumerate();
    subjects
        .filter_map(|(n, subject)| {
            let samples = measure.samples.get(&subject.key)?;
            (!samples.is_empty()).then_some((n, subject.name.as_str(), samples.as_slice()))
        })
        .collect()
}

fn unit(group: &Group, key: &str) -> Unit {
    group.measure(key).map_or(Unit::Count, |measure| measure.unit)
}

/// See [`crate::bench::report::Plot::Cdf`].
pub(super) fn cdf(report: &Report, group: &Group, key: &str) -> String {
    let (curves, unit) = (curves(report, group, key), unit(group, key));
    let all = curves.iter().flat_map(|curve| curve.2.iter().copied());
    let right = WIDTH - RIGHT;
    let across = Axis::around(all, LEFT, right);
    let up = Axis::from_zero([1.0].into_iter(), BOTTOM, TOP);
    let mut drawing = Drawing::default();
    across.draw_below(&mut drawing, unit, TOP, BOTTOM);
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let y = up.place(part);
        drawing.line("grid", (LEFT, y), (right, y));
        drawing.text("", (LEFT - 8.0, y + 4.0), "end", &format!("{:.0} %", part * 100.0));
    }
    for (n, name, samples) in &curves {
        let ordered = sorted(samples);
        let mut points = Vec::with_capacity(ordered.len() * 2 + 1);
        for (rank, value) in ordered.iter().enumerate() {
            let x = across.place(*value);
            points.push((x, up.place(count(rank) / count(ordered.len()))));
            points.push((x, up.place(count(rank + 1) / count(ordered.len()))));
        }
        // To the edge: all samples are below what is there.
        points.push((right, up.place(1.0)));
        let hint = format!("{name}: {} samples", ordered.len());
        drawing.path(&points, &colour(*n), &hint);
    }
    colours(report) + &drawing.finish(BOTTOM + 24.0, &label(&curves, "how the samples of"))
}

/// See [`crate::bench::report::Plot::Line`].
pub(super) fn line(report: &Report, group: &Group, key: &str, across_name: &str) -> String {
    let (curves, unit) = (curves(report, group, key), unit(group, key));
    let right = WIDTH - RIGHT;
    let longest = curves.iter().map(|curve| curve.2.len()).max().unwrap_or(0);
    let across = Axis::from_zero([count(longest)].into_iter(), LEFT, right);
    let all = curves.iter().flat_map(|curve| curve.2.iter().copied());
    let up = Axis::from_zero(all, BOTTOM, TOP);
    let mut drawing = Drawing::default();
    up.draw_left(&mut drawing, unit, LEFT, right);
    across.draw_below(&mut drawing, Unit::Count, TOP, BOTTOM);
    drawing.text("", (right, BOTTOM + 34.0), "end", across_name);
    for (n, name, samples) in &curves {
        let points: Vec<_> = samples
            .iter()
            .enumerate()
            .map(|(at, value)| (across.place(count(at + 1)), up.place(*value)))
            .collect();
        drawing.path(&points, &colour(*n), name);
        if let (Some((x, y)), Some(last)) = (points.last(), samples.last()) {
            drawing.text("v", (x + 6.0, y + 4.0), "start", &unit.show(*last));
        }
    }
    colours(report) + &drawing.finish(BOTTOM + 42.0, &label(&curves, "the samples of"))
}

/// The colours of all subjects: a subject has the same in each drawing.
fn colours(report: &Report) -> String {
    legend(report.subjects.iter().map(|subject| subject.name.as_str()))
}

fn label(curves: &[Curve<'_>], what: &str) -> String {
    let names: Vec<_> = curves.iter().map(|curve| curve.1).collect();
    format!("{what} {}", names.join(", "))
}
