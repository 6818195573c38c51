//! Bars: one for each subject in pieces, or one for each subject and measure.

use super::{
    axis::Axis,
    svg::{Drawing, LEFT, RIGHT, WIDTH, colour, legend},
};
use crate::bench::{
    report::{Group, Measure, Report, Unit},
    stats::{count, median, quantile, sorted},
};

const ROW: f64 = 34.0;
const THICK: f64 = 20.0;
/// When the longest bar is so many times the shortest, each is drawn to its own length, too.
const FAR: f64 = 8.0;

/// A subject's bar in pieces.
struct Bar<'a> {
    name: &'a str,
    /// The median of the last measure that the subject has.
    total: f64,
    /// Number of the measure, and length.
    pieces: Vec<(usize, f64)>,
}

/// See [`crate::bench::report::Plot::Stacked`].
pub(super) fn stacked(report: &Report, group: &Group, keys: &[String]) -> String {
    let measures: Vec<&Measure> = keys.iter().filter_map(|key| group.measure(key)).collect();
    let Some(first) = measures.first() else { return String::new() };
    let bars: Vec<Bar<'_>> = report
        .subjects
        .iter()
        .filter_map(|subject| bar(&subject.name, &subject.key, &measures))
        .collect();
    let names: Vec<&str> = measures.iter().map(|measure| measure.name.as_str()).collect();
    let longest = bars.iter().map(|bar| bar.total).fold(0.0, f64::max);
    let shortest = bars.iter().map(|bar| bar.total).fold(f64::INFINITY, f64::min);
    let mut out = legend(names.iter().copied());
    out += &draw(&bars, &names, first.unit, false);
    if longest > shortest * FAR {
        out += "<p class=\"soft\">Each bar drawn to its own length:</p>\n";
        out += &draw(&bars, &names, first.unit, true);
    }
    out
}

fn bar<'a>(name: &'a str, key: &str, measures: &[&Measure]) -> Option<Bar<'a>> {
    let mut before: Option<&Vec<f64>> = None;
    let mut pieces = Vec::new();
    for (n, measure) in measures.iter().enumerate() {
        let Some(samples) = measure.samples.get(key).filter(|samples| !samples.is_empty()) else {
            continue;
        };
        let lengths: Vec<f64> = match before {
            // Samples of one run have one number.
            Some(before) => samples.iter().zip(before).map(|(to, from)| to - from).collect(),
            None => samples.clone(),
        };
        pieces.push((n, median(&sorted(&lengths))?.max(0.0)));
        before = Some(samples);
    }
    let total = median(&sorted(before?))?;
    Some(Bar { name, total, pieces })
}

fn draw(bars: &[Bar<'_>], names: &[&str], unit: Unit, own: bool) -> String {
    let mut drawing = Drawing::default();
    let end = WIDTH - RIGHT;
    let bottom = 8.0 + ROW * count(bars.len());
    let length = |bar: &Bar<'_>| bar.pieces.iter().map(|piece| piece.1).sum::<f64>();
    let shared = Axis::from_zero(bars.iter().map(length), LEFT, end);
    if !own {
        shared.draw_below(&mut drawing, unit, 4.0, bottom);
    }
    for (row, bar) in bars.iter().enumerate() {
        let y = 8.0 + ROW * count(row);
        let its = Axis::from_zero([length(bar)].into_iter(), LEFT, end);
        let axis = if own { &its } else { &shared };
        drawing.text("v", (LEFT - 10.0, y + 17.0), "end", bar.name);
        let mut at = 0.0;
        for (n, length) in &bar.pieces {
            let (x, to) = (axis.place(at), axis.place(at + length));
            // A thin line of the surface stands between two pieces.
            let hint = format!("{}: {} until {}", bar.name, unit.show(*length), names[*n]);
            drawing.block((x, y + 3.0), (to - x - 1.0, THICK), &colour(*n), &hint);
            at += length;
        }
        drawing.text("v", (axis.place(at) + 6.0, y + 17.0), "start", &unit.show(bar.total));
    }
    let height = if own { bottom + 4.0 } else { bottom + 24.0 };
    let label = bars.iter().map(|bar| format!("{} {}", bar.name, unit.show(bar.total)));
    drawing.finish(height, &label.collect::<Vec<_>>().join(", "))
}

/// See [`crate::bench::report::Plot::Bars`].
pub(super) fn plain(report: &Report, group: &Group, keys: &[String]) -> String {
    let mut rows = Vec::new();
    let mut unit = Unit::Count;
    let measures: Vec<&Measure> = keys.iter().filter_map(|key| group.measure(key)).collect();
    for measure in &measures {
        for (n, subject) in report.subjects.iter().enumerate() {
            let Some(samples) = measure.samples.get(&subject.key) else { continue };
            let ordered = sorted(samples);
            let Some(middle) = median(&ordered) else { continue };
            let low = quantile(&ordered, 0.1).unwrap_or(middle);
            let high = quantile(&ordered, 0.9).unwrap_or(middle);
            unit = measure.unit;
            rows.push((measure.name.as_str(), n, subject.name.as_str(), [low, middle, high]));
        }
    }
    let end = WIDTH - RIGHT;
    let axis = Axis::from_zero(rows.iter().map(|row| row.3[2]), LEFT, end);
    let mut drawing = Drawing::default();
    let heading = if measures.len() > 1 { 20.0 } else { 0.0 };
    let headings = rows.chunk_by(|a, b| a.0 == b.0).count();
    let bottom = 8.0 + ROW * count(rows.len()) + heading * count(headings);
    axis.draw_below(&mut drawing, unit, 4.0, bottom);
    let mut y = 8.0;
    let mut under = "";
    for (name, n, subject, [low, middle, high]) in &rows {
        if heading > 0.0 && *name != under {
            drawing.text("v", (LEFT, y + 14.0), "start", name);
            y += heading;
        }
        under = name;
        let (from, to) = (axis.place(0.0), axis.place(*middle));
        drawing.text("v", (LEFT - 10.0, y + 17.0), "end", subject);
        let hint = format!(
            "{subject}, {name}: median {}, 10th to 90th percentile {} to {}",
            unit.show(*middle),
            unit.show(*low),
            unit.show(*high)
        );
        drawing.block((from, y + 3.0), (to - from, THICK), &colour(*n), &hint);
        let middle_y = y + 3.0 + THICK / 2.0;
        drawing.line("axis", (axis.place(*low), middle_y), (axis.place(*high), middle_y));
        drawing.text("v", (axis.place(*high) + 6.0, y + 17.0), "start", &unit.show(*middle));
        y += ROW;
    }
    let label = rows.iter().map(|row| format!("{} {} {}", row.2, row.0, unit.show(row.3[1])));
    drawing.finish(bottom + 24.0, &label.collect::<Vec<_>>().join(", "))
}
