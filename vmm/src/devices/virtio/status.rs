//! The device status field: the order in which a driver may set its bits (virtio 1.3, 2.1 and 3.1.1).
//!
//! ```text
//! 0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK        any -> FAILED        any -> 0 (reset)
//! ```

/// The guest has noticed the device.
pub(super) const ACKNOWLEDGE: u32 = 1;
/// The guest has a driver for it.
pub(super) const DRIVER: u32 = 2;
/// The driver is ready.
pub(super) const DRIVER_OK: u32 = 4;
/// The features are agreed on.
pub(super) const FEATURES_OK: u32 = 8;
/// The device cannot go on until it is reset.
pub(super) const NEEDS_RESET: u32 = 64;
/// The driver gave up.
pub(super) const FAILED: u32 = 128;

const ORDER: [u32; 4] = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];

/// What a write of the status register asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    /// Back to the start.
    Reset,
    /// The driver gave up.
    Fail,
    /// These bits, in the order given, zero where there is none.
    Set([u32; 4]),
    /// It clears bits, skips a step or sets unknown bits; nothing happens.
    Illegal,
}

/// Judges the write of `value` where the bits that the driver has set so far are `current`.
pub(super) fn transition(current: u32, value: u32) -> Transition {
    if value == 0 {
        return Transition::Reset;
    }
    // The device sets NEEDS_RESET; a driver that writes it back says nothing by it.
    let value = value & !NEEDS_RESET;
    if current & !value != 0 {
        return Transition::Illegal;
    }
    if value & FAILED != 0 {
        return Transition::Fail;
    }
    let mut steps = [0; 4];
    let mut rest = value;
    for (step, bit) in steps.iter_mut().zip(ORDER) {
        if rest == 0 {
            break;
        }
        if rest & bit == 0 {
            return Transition::Illegal;
        }
        rest &= !bit;
        if current & bit == 0 {
            *step = bit;
        }
    }
    if rest == 0 { Transition::Set(steps) } else { Transition::Illegal }
}

/// Whether a driver can have brought the bits that it sets to `value`.
pub(super) fn is_reachable(value: u32) -> bool {
    let value = value & !FAILED;
    let steps = matches!(transition(0, value), Transition::Set(_));
    value == 0 || steps && value & NEEDS_RESET == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_order_one_or_more_at_a_time() {
        assert_eq!(transition(0, 1), Transition::Set([ACKNOWLEDGE, 0, 0, 0]));
        assert_eq!(transition(1, 3), Transition::Set([0, DRIVER, 0, 0]));
        assert_eq!(transition(3, 11), Transition::Set([0, 0, FEATURES_OK, 0]));
        assert_eq!(transition(11, 15), Transition::Set([0, 0, 0, DRIVER_OK]));
        assert_eq!(transition(1, 11), Transition::Set([0, DRIVER, FEATURES_OK, 0]));
        assert_eq!(transition(15, 15 | NEEDS_RESET), Transition::Set([0; 4]));
    }

    #[test]
    fn skipped_cleared_and_unknown_bits_are_illegal() {
        for (current, value) in
            [(0, 2), (0, 4), (1, 9), (3, 7), (3, 1), (15, 11), (1, 0x11), (128, 1)]
        {
            assert_eq!(
                transition(current, value),
                Transition::Illegal,
                "{current:#x} to {value:#x}"
            );
        }
    }

    #[test]
    fn reset_and_failure_are_always_possible() {
        for current in [0, 1, 3, 11, 15, 128, 143] {
            assert_eq!(transition(current, 0), Transition::Reset);
            assert_eq!(transition(current, current | FAILED), Transition::Fail);
        }
    }
}
