//! Sizes as docker's users write them: `512m`, `1g`, `65536`.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(pub u64);

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &lower[digits.len()..] {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            suffix => return Err(format!("unknown suffix {suffix:?}; b, k, m, g and t are known")),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| {
                "a whole number of bytes with an optional suffix b, k, m or g is needed".into()
            })
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    /// A number of bytes, or a text as a user writes it.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(from)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

impl Serialize for MemorySize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0)
    }
}

/// As a user writes it: with the largest suffix that leaves a whole number, bytes with `b`.
impl Display for MemorySize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "g"), (20, "m"), (10, "k")];
        let whole = |(shift, _): &(u32, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        let (shift, suffix) = units.into_iter().find(whole).unwrap_or((0, "b"));
        write!(formatter, "{}{suffix}", self.0 >> shift)
    }
}

impl MemorySize {
    /// The size in MiB, rounded down.
    #[must_use]
    pub fn mib(self) -> u64 {
        self.0 >> 20
    }
}

/// A size for people: three significant digits, decimal units as `docker image ls` has them.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else if value >= 10.0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.2} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        assert_eq!("256m".parse(), Ok(MemorySize(256 << 20)));
        assert_eq!("1G".parse(), Ok(MemorySize(1 << 30)));
        assert_eq!("1024".parse(), Ok(MemorySize(1024)));
        for bad in ["", "m", "-1m", "1.5g", "12x", "99999999999t"] {
            assert!(bad.parse::<MemorySize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for text in ["1b", "63m", "1g", "1025k", "0b"] {
            assert_eq!(text.parse::<MemorySize>().unwrap().to_string(), text);
        }
        assert_eq!(MemorySize(64 << 20).to_string(), "64m");
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(4_200_000), "4.20 MB");
        assert_eq!(human(123_456_789), "123 MB");
    }
}
