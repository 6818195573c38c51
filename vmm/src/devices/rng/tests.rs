//! The entropy device as a driver sees it.

use super::Rng;
use crate::devices::testing::{Driver, MEMORY};

#[test]
fn buffers_are_filled_with_bytes_that_differ() {
    let mut driver = Driver::start(Rng::new(), 0);
    let (first, second) = (driver.allocate(64), driver.allocate(64));
    driver.add(0, &[(first, 40, true), (first + 40, 24, true)]);
    driver.add(0, &[(second, 64, true)]);
    driver.kick(0);
    driver.pump();
    assert_eq!(driver.used(0), [(0, 64), (2, 64)]);
    assert_ne!(driver.bytes(first, 64), driver.bytes(second, 64));
    assert_ne!(driver.bytes(first + 40, 24), [0; 24]);
}

#[test]
fn a_request_is_bounded_and_a_bad_one_gets_nothing() {
    let mut driver = Driver::start(Rng::new(), 0);
    let buffer = driver.allocate(1 << 20);
    for (chain, written) in [
        ((buffer, 1 << 20, true), 4096),
        ((buffer, 64, false), 0),
        ((MEMORY - 8, 64, true), 0),
        ((buffer, 0, true), 0),
    ] {
        driver.add(0, &[chain]);
        driver.kick(0);
        driver.pump();
        assert_eq!(driver.used(0).iter().map(|used| used.1).collect::<Vec<_>>(), [written]);
    }
    assert_eq!(driver.bytes(buffer + 4096, 64), [0; 64]);
}

#[test]
fn a_new_device_goes_on_where_another_was_saved() {
    let mut driver = Driver::start(Rng::new(), 0);
    let buffer = driver.allocate(64);
    for round in 0..20 {
        driver.add(0, &[(buffer, 64, true)]);
        driver.kick(0);
        let state = driver.transport().save().unwrap();
        driver.pump();
        assert_eq!(driver.used(0), [], "nothing happens to a saved device");
        if round % 2 == 0 {
            driver.restore(Rng::new(), &state).unwrap();
        } else {
            driver.transport().resume();
        }
        driver.pump();
        assert_eq!(driver.used(0), [(round % 8, 64)]);
        assert_eq!(driver.register(0x60), 1);
    }
}
