//! What a bench has measured: the model behind the terminal's tables, the JSON file and the HTML page. docs/bench.md describes it as a file's schema.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The schema's name and version, the first thing in each file.
pub const SCHEMA: &str = "bulkhead-bench/1";

/// Which bench made a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `bench startup`
    Startup,
    /// `bench density`
    Density,
    /// `bench io`
    Io,
    /// `bench isolation`
    Isolation,
    /// `bench net`
    Net,
}

/// Everything that one run of a bench has to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Which bench.
    pub kind: Kind,
    /// The heading.
    pub title: String,
    /// When it began.
    pub made: Timestamp,
    /// Version of this program.
    pub version: String,
    /// The command line.
    pub arguments: Vec<String>,
    /// The machine and its settings.
    pub host: Vec<Fact>,
    /// What was measured beside each other, in this order.
    pub subjects: Vec<Subject>,
    /// The figures.
    pub groups: Vec<Group>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// Something about the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Its name for programs.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// What was found.
    pub value: String,
}

/// One of the things that stand beside each other, as a runtime or a mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Its name for programs.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// What it is, in one line.
    pub about: String,
}

/// Figures that belong together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name for programs.
    pub key: String,
    /// The heading.
    pub title: String,
    /// How it was measured.
    pub about: String,
    /// Numbers.
    #[serde(default)]
    pub measures: Vec<Measure>,
    /// Words.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// How the numbers are drawn.
    #[serde(default)]
    pub plots: Vec<Plot>,
}

/// One quantity of every subject that has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Its name for programs, unique in its group.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// What the numbers are.
    pub unit: Unit,
    /// Which numbers one wishes for.
    pub better: Better,
    /// All samples by the subject's key, in the order in which they were taken.
    pub samples: BTreeMap<String, Vec<f64>>,
}

/// What every subject showed of one thing, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Its name for programs, unique in its group.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// By the subject's key.
    pub values: BTreeMap<String, String>,
    /// The subjects' keys for which this is bad news.
    #[serde(default)]
    pub bad: Vec<String>,
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
    /// Guest-kernel instructions.
    Instructions,
    /// A number of things.
    Count,
    /// So many in a second.
    PerSecond,
    /// Bytes in a second.
    BytesPerSecond,
    /// A part of one processor's time: 1 is all of it.
    Share,
}

/// Which numbers of a measure one wishes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Small ones.
    Lower,
    /// Big ones.
    Higher,
}

/// A drawing of a group's measures, which are named by their keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Plot {
    /// A bar for each subject. The measures count from one beginning; a bar's pieces are the medians of what lies between them.
    Stacked {
        /// The heading.
        title: String,
        /// In order of time.
        measures: Vec<String>,
    },
    /// For each number, the part of the samples that are not above it; a line for each subject.
    Cdf {
        /// The heading.
        title: String,
        /// Of what.
        measure: String,
    },
    /// A bar for each subject and measure: the median, and from the 10th to the 90th percentile.
    Bars {
        /// The heading.
        title: String,
        /// Of what.
        measures: Vec<String>,
    },
    /// The samples in their order; a line for each subject.
    Line {
        /// The heading.
        title: String,
        /// Of what.
        measure: String,
        /// What the samples' numbers, from 1, count.
        across: String,
    },
}

impl Plot {
    /// The heading.
    #[must_use]
    pub fn title(&self) -> &str {
        match self {
            Self::Stacked { title, .. }
            | Self::Cdf { title, .. }
            | Self::Bars { title, .. }
            | Self::Line { title, .. } => title,
        }
    }
}

impl Report {
    /// An empty report that begins now, with the command line of this process.
    #[must_use]
    pub fn new(kind: Kind, title: &str, host: Vec<Fact>) -> Self {
        Self {
            schema: SCHEMA.into(),
            kind,
            title: title.into(),
            made: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").into(),
            arguments: std::env::args_os()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            host,
            subjects: Vec::new(),
            groups: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds what is measured.
    pub fn subject(&mut self, key: &str, name: &str, about: &str) {
        let subject = Subject { key: key.into(), name: name.into(), about: about.into() };
        self.subjects.push(subject);
    }

    /// The subject's name for people, or its key.
    #[must_use]
    pub fn subject_name<'a>(&'a self, key: &'a str) -> &'a str {
        let known = self.subjects.iter().find(|subject| subject.key == key);
        known.map_or(key, |subject| &subject.name)
    }
}

impl Group {
    /// An empty group.
    #[must_use]
    pub fn new(key: &str, title: &str, about: &str) -> Self {
        Self { key: key.into(), title: title.into(), about: about.into(), ..Self::default() }
    }

    /// The measure of this key.
    #[must_use]
    pub fn measure(&self, key: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.key == key)
    }

    /// Adds one sample; the measure is made when it is not there.
    pub fn add(&mut self, what: &Quantity, subject: &str, value: f64) {
        let known = self.measures.iter().position(|measure| measure.key == what.key);
        let at = known.unwrap_or_else(|| {
            self.measures.push(Measure {
                key: what.key.into(),
                name: what.name.into(),
                unit: what.unit,
                better: what.better,
                samples: BTreeMap::new(),
            });
            self.measures.len() - 1
        });
        self.measures[at].samples.entry(subject.into()).or_default().push(value);
    }
}

/// What a measure is of.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// Its name for programs.
    pub key: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// What the numbers are.
    pub unit: Unit,
    /// Which numbers one wishes for.
    pub better: Better,
}

impl Quantity {
    /// Something of which less is better.
    #[must_use]
    pub const fn lower(key: &'static str, name: &'static str, unit: Unit) -> Self {
        Self { key, name, unit, better: Better::Lower }
    }

    /// Something of which more is better.
    #[must_use]
    pub const fn higher(key: &'static str, name: &'static str, unit: Unit) -> Self {
        Self { key, name, unit, better: Better::Higher }
    }
}

impl Unit {
    /// A number with its unit, in few digits: `1.27 s`, `18.4 ms`, `12.0 MiB`, `7.34 M`.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds if value.abs() >= 1000.0 => format!("{} s", three(value / 1000.0)),
            Self::Milliseconds if value != 0.0 && value.abs() < 0.1 => {
                format!("{} µs", three(value * 1000.0))
            }
            Self::Milliseconds => format!("{} ms", three(value)),
            Self::Bytes => bytes(value),
            Self::BytesPerSecond => format!("{}/s", bytes(value)),
            Self::Instructions => thousands(value),
            Self::Count if value.fract() == 0.0 && value.abs() < 1e6 => format!("{value:.0}"),
            Self::Count => thousands(value),
            Self::PerSecond => format!("{}/s", three(value)),
            Self::Share => format!("{} %", three(value * 100.0)),
        }
    }
}

impl Unit {
    /// A round number of an axis: [`Unit::show`] without noughts that say nothing.
    #[must_use]
    pub fn show_round(self, value: f64) -> String {
        let shown = self.show(value);
        let (number, unit) = shown.split_once([' ', '/']).unwrap_or((&shown, ""));
        let rest = &shown[number.len()..];
        if value == 0.0 && !unit.is_empty() {
            return "0".into();
        }
        let number = match number.contains('.') {
            true => number.trim_end_matches('0').trim_end_matches('.'),
            false => number,
        };
        format!("{number}{rest}")
    }
}

/// Three digits that matter, and no exponent.
fn three(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn bytes(value: f64) -> String {
    match value.abs() {
        size if size >= 1_073_741_824.0 => format!("{} GiB", three(value / 1_073_741_824.0)),
        size if size >= 1_048_576.0 => format!("{} MiB", three(value / 1_048_576.0)),
        size if size >= 1024.0 => format!("{} KiB", three(value / 1024.0)),
        _ => format!("{value:.0} B"),
    }
}

fn thousands(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => format!("{} G", three(value / 1e9)),
        size if size >= 1e6 => format!("{} M", three(value / 1e6)),
        size if size >= 1e3 => format!("{} k", three(value / 1e3)),
        _ => three(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_units() {
        for (unit, value, shown) in [
            (Unit::Milliseconds, 11_100.0, "11.1 s"),
            (Unit::Milliseconds, 18.44, "18.4 ms"),
            (Unit::Milliseconds, 0.0, "0.00 ms"),
            (Unit::Milliseconds, 0.0471, "47.1 µs"),
            (Unit::Bytes, 12_582_912.0, "12.0 MiB"),
            (Unit::Bytes, 100.0, "100 B"),
            (Unit::BytesPerSecond, 2048.0, "2.00 KiB/s"),
            (Unit::Instructions, 7_340_000.0, "7.34 M"),
            (Unit::Count, 117.0, "117"),
            (Unit::PerSecond, 3.5, "3.50/s"),
            (Unit::Share, 0.0123, "1.23 %"),
        ] {
            assert_eq!(unit.show(value), shown);
        }
        for (unit, value, shown) in [
            (Unit::Milliseconds, 50.0, "50 ms"),
            (Unit::Milliseconds, 0.0, "0"),
            (Unit::Milliseconds, 2500.0, "2.5 s"),
            (Unit::Count, 100.0, "100"),
            (Unit::Count, 0.0, "0"),
            (Unit::PerSecond, 20.0, "20/s"),
            (Unit::Bytes, 16_777_216.0, "16 MiB"),
        ] {
            assert_eq!(unit.show_round(value), shown);
        }
    }

    #[test]
    fn a_measure_is_made_by_its_first_sample() {
        const EXIT: Quantity = Quantity::lower("exit", "program ended", Unit::Milliseconds);
        let mut group = Group::new("phases", "Phases", "");
        group.add(&EXIT, "a", 1.0);
        group.add(&EXIT, "b", 2.0);
        group.add(&EXIT, "a", 3.0);
        assert_eq!(group.measures.len(), 1);
        assert_eq!(group.measure("exit").unwrap().samples["a"], [1.0, 3.0]);
        assert!(group.measure("entry").is_none());
    }
}
