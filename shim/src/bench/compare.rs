//! `bench compare`: what changed between two reports, and whether that is noise.
//!
//! The rule: two sets of samples differ when the Mann-Whitney U test, which assumes no distribution, says so at 5 %, two-sided, after Holm's correction for the
//! number of measures that are compared; and the medians differ by 1 % or more.

use std::io::{self, Write};

use super::{
    report::{Better, Report, Unit},
    stats::{count, median, sorted},
};
use crate::commands::table::Table;

/// The chance to call anything at all a change when nothing has changed.
const LEVEL: f64 = 0.05;
/// Medians that differ by less are as good as equal.
const WORTH: f64 = 0.01;
/// Up to so many pairs of samples the test's distribution is counted out.
const MAX_EXACT: usize = 2500;
/// Resamples of the interval.
const RESAMPLES: usize = 2000;

/// What became of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has changed as one wishes.
    Better,
    /// It has changed as one does not wish.
    Worse,
    /// What differs is noise, or not worth a word.
    Same,
    /// With so few samples no difference could be told from noise.
    TooFew,
}

/// A measure of a subject in both reports.
#[derive(Debug)]
pub struct Change {
    group: String,
    measure: String,
    subject: String,
    unit: Unit,
    medians: (f64, f64),
    /// New to old, less one: 95 % of the resampled medians lie between.
    interval: (f64, f64),
    /// The chance of such a difference by noise alone, after the correction.
    chance: f64,
    /// See [`Verdict`].
    pub verdict: Verdict,
}

/// All that is in both.
#[must_use]
pub fn compare(old: &Report, new: &Report) -> Vec<Change> {
    let mut pairs = Vec::new();
    for (before, after) in new.groups.iter().filter_map(|after| {
        let before = old.groups.iter().find(|before| before.key == after.key)?;
        Some((before, after))
    }) {
        for measure in &after.measures {
            let Some(known) = before.measure(&measure.key) else { continue };
            if known.unit != measure.unit {
                continue;
            }
            for subject in &new.subjects {
                let samples = (known.samples.get(&subject.key), measure.samples.get(&subject.key));
                let (Some(a), Some(b)) = samples else { continue };
                pairs.push((after.title.clone(), measure, subject.name.clone(), a, b));
            }
        }
    }
    let tests: Vec<Test> = pairs.iter().map(|pair| mann_whitney(pair.3, pair.4)).collect();
    let chances = holm(&tests.iter().map(|test| test.chance).collect::<Vec<_>>());
    let tries = count(tests.len());
    pairs
        .into_iter()
        .zip(tests)
        .zip(chances)
        .filter_map(|(((group, measure, subject, old, new), test), chance)| {
            let medians = (median(&sorted(old))?, median(&sorted(new))?);
            let change = relative(medians);
            let wished = match measure.better {
                Better::Lower => medians.1 < medians.0,
                Better::Higher => medians.1 > medians.0,
            };
            let verdict = match () {
                () if test.least * tries > LEVEL => Verdict::TooFew,
                () if chance > LEVEL || change.abs() < WORTH => Verdict::Same,
                () if wished => Verdict::Better,
                () => Verdict::Worse,
            };
            Some(Change {
                group,
                measure: measure.name.clone(),
                subject,
                unit: measure.unit,
                medians,
                interval: interval(old, new),
                chance,
                verdict,
            })
        })
        .collect()
}

/// New to old, less one.
fn relative((old, new): (f64, f64)) -> f64 {
    match (old, new) {
        (0.0, 0.0) => 0.0,
        (0.0, _) => f64::INFINITY,
        _ => new / old - 1.0,
    }
}

/// A test's result.
#[derive(Debug, Clone, Copy)]
struct Test {
    /// The chance of such a difference, or a greater one, by noise alone.
    chance: f64,
    /// The least that so many samples can give.
    least: f64,
}

/// The Mann-Whitney U test, two-sided. Exact for few samples without ties; else by the normal distribution with corrections for ties and
/// continuity (Lehmann, Nonparametrics, 1.2 and 1.4).
fn mann_whitney(a: &[f64], b: &[f64]) -> Test {
    let (n, m) = (count(a.len()), count(b.len()));
    if a.is_empty() || b.is_empty() {
        return Test { chance: 1.0, least: 1.0 };
    }
    let mut all: Vec<(f64, bool)> = a.iter().map(|value| (*value, true)).collect();
    all.extend(b.iter().map(|value| (*value, false)));
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (mut rank, mut sum, mut ties) = (0.0, 0.0, 0.0);
    for equal in all.chunk_by(|x, y| x.0 == y.0) {
        let many = count(equal.len());
        let middle = rank + f64::midpoint(1.0, many);
        sum += middle * count(equal.iter().filter(|item| item.1).count());
        ties += many.powi(3) - many;
        rank += many;
    }
    let u = sum - n * (n + 1.0) / 2.0;
    let small = u.min(n * m - u);
    if ties == 0.0 && a.len() * b.len() <= MAX_EXACT {
        let ways = ways(a.len(), b.len());
        let all: f64 = ways.iter().sum();
        // Without ties U is a whole number.
        let below: f64 = (0_u32..)
            .zip(&ways)
            .filter(|(u, _)| f64::from(*u) <= small)
            .map(|(_, ways)| ways)
            .sum();
        return Test { chance: (2.0 * below / all).min(1.0), least: 2.0 / all };
    }
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    let least = 2.0 / ways(a.len().min(30), b.len().min(30)).iter().sum::<f64>();
    if variance <= 0.0 {
        return Test { chance: 1.0, least };
    }
    let z = ((n * m / 2.0 - small - 0.5) / variance.sqrt()).max(0.0);
    Test { chance: libm::erfc(z / std::f64::consts::SQRT_2).min(1.0), least }
}

/// In how many ways `n` and `m` samples can be in order, for each U from 0 to `n * m`.
fn ways(n: usize, m: usize) -> Vec<f64> {
    // The coefficients of the Gaussian binomial: the product of (1 - q^(m+i)) / (1 - q^i).
    let mut ways = vec![0.0; n * m + 1];
    ways[0] = 1.0;
    for i in 1..=n {
        for at in (m + i..ways.len()).rev() {
            ways[at] -= ways[at - m - i];
        }
        for at in i..ways.len() {
            ways[at] += ways[at - i];
        }
    }
    ways
}

/// Holm's correction: the chances as they are when so many tests are made.
fn holm(chances: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..chances.len()).collect();
    order.sort_by(|a, b| chances[*a].total_cmp(&chances[*b]));
    let mut corrected = vec![1.0; chances.len()];
    let mut least: f64 = 0.0;
    for (place, at) in order.into_iter().enumerate() {
        let left = count(chances.len() - place);
        least = least.max((chances[at] * left).min(1.0));
        corrected[at] = least;
    }
    corrected
}

/// 95 % of the changes of the medians when both are sampled again from what there is (percentile bootstrap). The same for the same samples.
fn interval(old: &[f64], new: &[f64]) -> (f64, f64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pick = |samples: &[f64]| {
        let again = (0..samples.len()).map(|_| {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = state;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let length = samples.len() as u64;
            let at = usize::try_from((x ^ (x >> 31)) % length).unwrap_or_default();
            samples[at]
        });
        median(&sorted(&again.collect::<Vec<_>>())).unwrap_or_default()
    };
    let changes: Vec<f64> = (0..RESAMPLES).map(|_| relative((pick(old), pick(new)))).collect();
    let ordered = sorted(&changes);
    let at = |part| super::stats::quantile(&ordered, part).unwrap_or_default();
    (at(0.025), at(0.975))
}

/// Writes what changed, then what did not, and where the hosts differ.
///
/// # Errors
/// That of the writer.
pub fn write(
    old: &Report,
    new: &Report,
    changes: &[Change],
    to: &mut impl Write,
) -> io::Result<()> {
    writeln!(to, "old: {}, {}\nnew: {}, {}", old.title, old.made, new.title, new.made)?;
    for fact in &new.host {
        let volatile = ["load", "memory"].contains(&fact.key.as_str());
        let before = old.host.iter().find(|before| before.key == fact.key);
        if let Some(before) = before.filter(|before| !volatile && before.value != fact.value) {
            writeln!(to, "! {} differs: {} became {}", fact.name, before.value, fact.value)?;
        }
    }
    let mut shown = "";
    let mut table = Table::new(&["", "", "old p50", "new p50", "change", "95 %", "p", ""]);
    for change in changes {
        if change.group != shown {
            table.row(vec![change.group.clone()]);
            shown = &change.group;
        }
        table.row(row(change));
    }
    if changes.is_empty() {
        return writeln!(to, "\nThe reports have nothing in common.");
    }
    writeln!(to)?;
    table.write(to)?;
    let those = |wanted| changes.iter().filter(|change| change.verdict == wanted).count();
    writeln!(
        to,
        "\n{} better, {} worse, {} the same but for noise, {} with too few samples to tell.\n\
         A change: Mann-Whitney U, two-sided, p (after Holm's correction for {} tests) below {LEVEL}, and medians {} % or more apart.",
        those(Verdict::Better),
        those(Verdict::Worse),
        those(Verdict::Same),
        those(Verdict::TooFew),
        changes.len(),
        WORTH * 100.0,
    )
}

fn row(change: &Change) -> Vec<String> {
    let percent = |change: f64| format!("{:+.1} %", change * 100.0);
    let word = match change.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "WORSE",
        Verdict::Same => "noise",
        Verdict::TooFew => "too few samples",
    };
    vec![
        format!("  {}", change.measure),
        change.subject.clone(),
        change.unit.show(change.medians.0),
        change.unit.show(change.medians.1),
        percent(relative(change.medians)),
        format!("{} … {}", percent(change.interval.0), percent(change.interval.1)),
        if change.chance < 0.0001 { "<0.0001".into() } else { format!("{:.4}", change.chance) },
        word.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{report::Quantity, sample};

    #[test]
    fn the_exact_test_is_that_of_the_tables() {
        // Lehmann's and R's: wilcox.test(1:5, 6:10)$p.value is 0.007937; of 1:3 and 4:6 it is 0.1.
        let test = mann_whitney(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]);
        assert!((test.chance - 0.007_936_5).abs() < 1e-6, "{test:?}");
        let test = mann_whitney(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
        assert!((test.chance - 0.1).abs() < 1e-12 && (test.least - 0.1).abs() < 1e-12, "{test:?}");
        // wilcox.test(c(1.1, 2.2, 3.3, 4.4), c(2.5, 3.5, 4.5, 5.5))$p.value
        let test = mann_whitney(&[1.1, 2.2, 3.3, 4.4], &[2.5, 3.5, 4.5, 5.5]);
        assert!((test.chance - 0.2).abs() < 0.000_1, "{test:?}");
        assert_eq!(ways(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
    }

    #[test]
    fn ties_and_many_samples_are_taken_by_the_normal_distribution() {
        // wilcox.test(c(1,1,2,3), c(2,3,3,4), correct = TRUE)$p.value is 0.1362.
        let test = mann_whitney(&[1.0, 1.0, 2.0, 3.0], &[2.0, 3.0, 3.0, 4.0]);
        assert!((test.chance - 0.136).abs() < 0.01, "{test:?}");
        let a: Vec<f64> = (0..100).map(f64::from).collect();
        let b: Vec<f64> = (0..100).map(|n| f64::from(n) + 0.5).collect();
        assert!(mann_whitney(&a, &b).chance > 0.8);
        let c: Vec<f64> = (0..100).map(|n| f64::from(n) + 40.0).collect();
        assert!(mann_whitney(&a, &c).chance < 1e-6);
        assert_eq!(mann_whitney(&[1.0; 9], &[1.0; 9]).chance, 1.0);
        assert_eq!(mann_whitney(&[], &[1.0]).chance, 1.0);
    }

    #[test]
    fn many_tests_make_each_less_sure() {
        assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
        assert_eq!(holm(&[0.9, 0.9]), [1.0, 1.0]);
    }

    #[test]
    fn what_changed_is_told_from_noise() {
        const SPEED: Quantity = Quantity::higher("rate", "lives a second", Unit::PerSecond);
        let (mut old, mut new) = (sample::report(), sample::report());
        for report in [&mut old, &mut new] {
            report.groups[0].measures.iter_mut().for_each(|measure| measure.samples.clear());
        }
        for n in 0..20 {
            let noise = f64::from(n * 7 % 20) / 10.0;
            for (report, faster) in [(&mut old, 0.0), (&mut new, 20.0)] {
                let measure = &mut report.groups[0].measures[0].samples;
                measure.entry("vm-clone".into()).or_default().push(100.0 + noise - faster);
                measure.entry("runc".into()).or_default().push(50.0 + noise + faster * 0.001);
                report.groups[1].add(&SPEED, "runc", 40.0 + noise - faster);
            }
        }
        let changes = compare(&old, &new);
        let verdict = |measure: &str, subject: &str| {
            let found = |c: &&Change| c.measure == measure && c.subject == subject;
            changes.iter().find(found).unwrap().verdict
        };
        assert_eq!(verdict("agent ready", "vm, clone"), Verdict::Better);
        assert_eq!(verdict("agent ready", "runc"), Verdict::Same);
        assert_eq!(verdict("lives a second", "runc"), Verdict::Worse);
        assert_eq!(verdict("memory of all processes", "vm, clone"), Verdict::TooFew);
        let mut out = Vec::new();
        new.host[0].value = "Linux 6.2".into();
        write(&old, &new, &changes, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("! kernel differs: Linux 6.1 became Linux 6.2"), "{text}");
        assert!(text.contains("-19.8 %") && text.contains("WORSE"), "{text}");
        assert!(text.contains("1 better, 1 worse, 1 the same"), "{text}");
    }

    #[test]
    fn an_interval_holds_the_change_and_is_always_the_same() {
        let (old, new) = ([10.0, 11.0, 12.0, 13.0, 14.0], [20.0, 22.0, 24.0, 26.0, 28.0]);
        let (low, high) = interval(&old, &new);
        assert!(low < 1.0 && high > 1.0 && low > 0.3 && high < 2.0, "{low} {high}");
        assert_eq!(interval(&old, &new), (low, high));
    }
}
