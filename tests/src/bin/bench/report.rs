//! Rows of figures and how they are shown: a table for people, JSON for programs.

use std::fmt;

use serde_json::{Value, json};

/// Everything that was measured.
pub(crate) struct Report {
    facts: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    tables: Vec<Table>,
}

/// Things beside each other: a column for each, a row for each figure.
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Unit, Vec<Vec<f64>>)>,
}

struct Row {
    figure: String,
    value: Result<String, String>,
    how: String,
    samples: Vec<f64>,
}

/// How a number is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Instructions, in millions.
    Instructions,
    /// Seconds.
    Seconds,
    /// KiB, shown as MiB.
    Kib,
    /// Bytes, shown as KiB.
    Bytes,
    /// Millions of bytes in a second.
    Rate,
    /// Milliseconds.
    Milliseconds,
    /// A number of things.
    Count,
    /// A number of things for each of others.
    Ratio,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Instructions => format!("{:.2} M", value / 1e6),
            Unit::Seconds => format!("{value:.3} s"),
            Unit::Kib => format!("{:.2} MiB", value / 1024.0),
            Unit::Bytes => format!("{:.0} KiB", value / 1024.0),
            Unit::Rate => format!("{value:.2} MB/s"),
            Unit::Milliseconds => format!("{value:.2} ms"),
            Unit::Count => format!("{value:.0}"),
            Unit::Ratio => format!("{value:.2}"),
        }
    }
}

impl Report {
    pub(crate) fn new(facts: Vec<(&'static str, String)>) -> Self {
        Self { facts, rows: Vec::new(), tables: Vec::new() }
    }

    /// Adds a table, to be shown behind the figures.
    pub(crate) fn add_table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Adds the median of these samples.
    pub(crate) fn add(&mut self, figure: &str, unit: Unit, samples: &[f64], how: &str) {
        let value = median(samples).map(|value| unit.show(value));
        let value = value.ok_or_else(|| "nothing was measured".to_owned());
        let how = match samples {
            [] | [_] => how.to_owned(),
            _ => {
                let lowest = samples.iter().copied().fold(f64::INFINITY, f64::min);
                let highest = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let range = format!("{} to {}", unit.show(lowest), unit.show(highest));
                format!("{how}; median of {}, {range}", samples.len())
            }
        };
        self.rows.push(Row { figure: figure.to_owned(), value, how, samples: samples.to_vec() });
    }

    /// Adds that a figure could not be got, and why.
    pub(crate) fn fail(&mut self, figure: &str, reason: &str) {
        let value = Err(reason.to_owned());
        let (how, samples) = (String::new(), Vec::new());
        self.rows.push(Row { figure: figure.to_owned(), value, how, samples });
    }

    /// Adds what a peer that is not there or cannot do it would have shown.
    pub(crate) fn note(&mut self, figure: &str, why: &str) {
        let value = Ok("-".to_owned());
        self.rows.push(Row {
            figure: figure.to_owned(),
            value,
            how: why.to_owned(),
            samples: Vec::new(),
        });
    }

    pub(crate) fn has_failures(&self) -> bool {
        self.rows.iter().any(|row| row.value.is_err())
    }

    pub(crate) fn json(&self) -> Value {
        let facts: serde_json::Map<_, _> =
            self.facts.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let rows = self.rows.iter().map(|row| {
            let (value, error) = (row.value.as_ref().ok(), row.value.as_ref().err());
            json!({"figure": row.figure, "value": value, "error": error, "how": row.how, "samples": row.samples})
        });
        let tables = self.tables.iter().map(Table::json).collect::<Vec<_>>();
        json!({"machine": facts, "figures": rows.collect::<Vec<_>>(), "tables": tables})
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.facts {
            writeln!(f, "{key}: {value}")?;
        }
        if !self.rows.is_empty() {
            writeln!(f, "\n| figure | value | how |\n|---|---|---|")?;
        }
        for row in &self.rows {
            let value = match &row.value {
                Ok(value) => value.clone(),
                Err(reason) => format!("FAILED: {reason}"),
            };
            writeln!(f, "| {} | {value} | {} |", row.figure, row.how)?;
        }
        self.tables.iter().try_for_each(|table| table.fmt(f))
    }
}

impl Table {
    pub(crate) fn new(title: &str, columns: Vec<String>) -> Self {
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }

    /// Adds a row: the samples of each column.
    pub(crate) fn add(&mut self, what: &str, unit: Unit, samples: Vec<Vec<f64>>) {
        self.rows.push((what.to_owned(), unit, samples));
    }

    fn json(&self) -> Value {
        let rows = self
            .rows
            .iter()
            .map(|(figure, _, samples)| json!({"figure": figure, "samples": samples}));
        json!({"title": self.title, "columns": self.columns, "rows": rows.collect::<Vec<_>>()})
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.title)?;
        writeln!(f, "| what | {} |", self.columns.join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(self.columns.len()))?;
        for (figure, unit, columns) in &self.rows {
            let cells: Vec<_> = columns.iter().map(|samples| cell(*unit, samples)).collect();
            writeln!(f, "| {figure} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

/// The median, and how far the samples spread when there are several.
fn cell(unit: Unit, samples: &[f64]) -> String {
    let Some(middle) = median(samples) else { return "-".to_owned() };
    match (quantile(samples, 0.1), quantile(samples, 0.9)) {
        (Some(low), Some(high)) if samples.len() > 1 => {
            format!("{} ({} to {})", unit.show(middle), unit.show(low), unit.show(high))
        }
        _ => unit.show(middle),
    }
}

/// The smallest sample that at least this part of all are not above.
pub(crate) fn quantile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "there are few samples, and the part is between 0 and 1"
    )]
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The middle sample, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) =
        (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[5.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 9.0, 2.0]), Some(3.0));
    }

    #[test]
    fn a_column_has_its_median_and_its_spread() {
        let mut table = Table::new("both", vec!["a".to_owned(), "b".to_owned()]);
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        table.add("time", Unit::Milliseconds, vec![ten, vec![]]);
        table.add("calls", Unit::Count, vec![vec![7.0], vec![8.0]]);
        let text = table.to_string();
        assert!(text.contains("| what | a | b |\n|---|---:|---:|\n"), "{text}");
        assert!(text.contains("| time | 5.50 ms (1.00 ms to 9.00 ms) | - |"), "{text}");
        assert!(text.contains("| calls | 7 | 8 |"), "{text}");
    }

    #[test]
    fn a_table_has_each_figure_and_each_failure() {
        let mut report = Report::new(vec![("cpu", "x".to_owned())]);
        report.add("speed", Unit::Rate, &[1.0, 3.0], "measured");
        report.fail("size", "no file");
        let text = report.to_string();
        assert!(
            text.contains("| speed | 2.00 MB/s | measured; median of 2, 1.00 MB/s to 3.00 MB/s |"),
            "{text}"
        );
        assert!(text.contains("| size | FAILED: no file |  |"), "{text}");
        assert!(report.has_failures());
    }
}
