//! What the stamp's program says, and where its time lies on the host's clock.

use rustix::time::{ClockId, clock_gettime};

use crate::timeline;

/// Nanoseconds of both clocks at the program's first instruction, as its kernel has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// `CLOCK_MONOTONIC`: the host's own in a plain container, of no use to others in a guest.
    pub monotonic: u64,
    /// `CLOCK_REALTIME`.
    pub realtime: u64,
}

impl Stamp {
    /// Finds its line, which is the first, in what a container wrote.
    #[must_use]
    pub fn find(output: &[u8]) -> Option<Self> {
        let line = output.split(|byte| *byte == b'\n').next()?;
        let text = str::from_utf8(line).ok()?.trim_end();
        let (monotonic, realtime) = text.strip_prefix("bulkhead-stamp ")?.split_once(' ')?;
        Some(Self { monotonic: monotonic.parse().ok()?, realtime: realtime.parse().ok()? })
    }
}

/// What the host's wall clock is ahead of its monotonic clock, in nanoseconds.
#[must_use]
pub fn wall_offset() -> u64 {
    let wall = clock_gettime(ClockId::Realtime);
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let wall = number(wall.tv_sec).wrapping_mul(1_000_000_000).wrapping_add(number(wall.tv_nsec));
    wall.wrapping_sub(timeline::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_stamp() {
        let stamp = Stamp { monotonic: 12, realtime: 1_795_275_752_449_160_377 };
        let text = "bulkhead-stamp 12 1795275752449160377\nmore\n";
        assert_eq!(Stamp::find(text.as_bytes()), Some(stamp));
        assert_eq!(Stamp::find(text.replace('\n', "\r\n").as_bytes()), Some(stamp));
        for bad in ["", "hello\nbulkhead-stamp 1 2", "bulkhead-stamp 1", "bulkhead-stamp x 2\n"] {
            assert_eq!(Stamp::find(bad.as_bytes()), None, "{bad}");
        }
    }
}
