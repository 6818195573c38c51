//! The time as the OCI tools write it: RFC 3339 in UTC, with nanoseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// The time now, as `2026-11-21T12:22:37.697646367Z`.
#[must_use]
pub(crate) fn now() -> String {
    format(since_epoch(), true)
}

/// The time now without fractions of a second, as logs have it.
#[must_use]
pub(crate) fn now_in_seconds() -> String {
    format(since_epoch(), false)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Like Go's RFC3339Nano: without trailing zeros.
fn format(since_epoch: Duration, fraction: bool) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / DAY);
    let second = seconds % DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction && since_epoch.subsec_nanos() > 0 {
        let nanos = format!("{:09}", since_epoch.subsec_nanos());
        text.push('.');
        text.push_str(nanos.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// The date of a day since 1970-01-01, after Howard Hinnant's "chrono-compatible low-level date algorithms": years that
/// begin in March, in eras of 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_709_251_199, 5, "2024-02-29T23:59:59.000000005Z"),
            (4_107_542_400, 100_000_000, "2100-03-01T00:00:00.1Z"),
        ] {
            assert_eq!(format(Duration::new(seconds, nanos), true), expected);
        }
        assert_eq!(format(Duration::new(0, 7), false), "1970-01-01T00:00:00Z");
    }
}
