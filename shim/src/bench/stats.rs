//! Order statistics of samples.

/// The five figures of a table's row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The smallest.
    pub min: f64,
    /// The median: the mean of the two in the middle when there is no one.
    pub p50: f64,
    /// The 90th percentile (nearest rank: a sample).
    pub p90: f64,
    /// The 99th percentile (nearest rank).
    pub p99: f64,
    /// The biggest.
    pub max: f64,
}

impl Summary {
    /// Of these samples; `None` when there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self {
            min: *sorted.first()?,
            p50: median(&sorted)?,
            p90: quantile(&sorted, 0.9)?,
            p99: quantile(&sorted, 0.99)?,
            max: *sorted.last()?,
        })
    }
}

/// The samples in ascending order.
#[must_use]
pub fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The middle of what is in ascending order.
#[must_use]
pub fn median(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(f64::midpoint(*sorted.get(last / 2)?, *sorted.get(sorted.len() / 2)?))
}

/// Of what is in ascending order, the smallest that at least this part of all (0 to 1) are not above.
#[must_use]
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "there are fewer samples than 2^52, and the part is between 0 and 1"
    )]
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// A number of things to reckon with.
#[must_use]
pub fn count(things: usize) -> f64 {
    u32::try_from(things).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_and_the_median_is_in_the_middle() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        let expected = Summary { min: 1.0, p50: 100.5, p90: 180.0, p99: 198.0, max: 200.0 };
        assert_eq!(summary, expected);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[5.0]).unwrap().p99, 5.0);
    }
}
