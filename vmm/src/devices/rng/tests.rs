//! The entropy device as a driver sees it.

use super::Rng;
use crate::devices::{
    suite::Subject,
    testing::{Driver, MEMORY},
};

/// A guest that asks for bytes.
pub(in crate::devices) struct Guest(Driver);

impl Subject for Guest {
    type Device = Rng;

    fn start(without: u64) -> Self {
        Self(Driver::start(Rng::new(), without))
    }

    fn driver(&mut self) -> &mut Driver {
        &mut self.0
    }

    fn another(&mut self) -> Rng {
        Rng::new()
    }

    fn drive(&mut self, round: u32, meanwhile: &mut dyn FnMut(&mut Self)) -> Vec<u8> {
        let heap = self.0.allocate(0);
        let buffer = self.0.put(&[0; 128]);
        self.0.add(0, &[(buffer, 100 + round, true)]);
        self.0.kick(0);
        meanwhile(self);
        let used = self.0.wait_used(0, 1);
        let bytes = self.0.bytes(buffer, 128);
        self.0.heap_reset(heap);
        assert_ne!(bytes[..100], [0; 100]);
        [&used[0].0.to_le_bytes()[..], &used[0].1.to_le_bytes(), &bytes[100 + round as usize..]]
            .concat()
    }
}

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
