//! Points in time as docker's users write them.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// Reads `2026-01-02T03:04:05Z`, `2026-01-02T03:04:05+01:00`, `2026-01-02 03:04` or `2026-01-02` in this host's time zone, seconds since 1970
/// (`1700000000.5`), or a time before `now` (`90s`, `1h30m`). `None` for anything else.
#[must_use]
pub fn parse(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(time) = seconds(text) {
        return Some(time);
    }
    if let Some(ago) = duration(text) {
        return now.checked_sub(ago).ok();
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let civil: DateTime = text.parse().ok()?;
    civil.to_zoned(TimeZone::system()).ok().map(|zoned| zoned.timestamp())
}

/// Seconds since 1970, with at most nine digits behind the point.
fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(whole.parse().ok()?, nanoseconds).ok()
}

/// A duration as Go writes it: numbers, each with a unit.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut total = SignedDuration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(SignedDuration::try_from_secs_f64(number * unit).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_all_forms() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let back = |milliseconds| {
            Some(now.checked_sub(SignedDuration::from_millis(milliseconds)).unwrap())
        };
        for (text, want) in [
            ("1700000000", Some(now)),
            ("1699999999.5", back(500)),
            ("2023-11-14T22:13:20Z", Some(now)),
            ("2023-11-14T23:13:20+01:00", Some(now)),
            ("2023-11-14T22:13:19.5Z", back(500)),
            ("10m", back(600_000)),
            ("1h30m", back(5_400_000)),
            ("1.5s", back(1500)),
            ("250ms", back(250)),
        ] {
            assert_eq!(parse(text, now), want, "{text}");
        }
        let local = |text: &str| {
            text.parse::<DateTime>().unwrap().to_zoned(TimeZone::system()).unwrap().timestamp()
        };
        assert_eq!(parse("2023-11-14", now), Some(local("2023-11-14T00:00:00")));
        assert_eq!(parse("2023-11-14T22:13", now), Some(local("2023-11-14T22:13:00")));
        for bad in ["", "yesterday", "10", "-5m", "5 m", "10x", "1.2.3s", "h", "2023-13-01", "m5"] {
            let want = (bad == "10").then(|| Timestamp::from_second(10).unwrap());
            assert_eq!(parse(bad, now), want, "{bad}");
        }
    }
}
