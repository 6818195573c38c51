//! Frames of all sizes for the guest, too few buffers, a host that does not read, and a tap that goes away.

use super::*;
use crate::devices::net::frame::{GUEST_TSO4, LARGEST, MRG_RXBUF};

impl Wire {
    /// Waits until the host's frame has come, in buffers of `size` bytes that were given in a row from `at` on; the frame and how many buffers it fills.
    fn gathered(&mut self, at: u64, size: usize, frame: usize) -> (Vec<u8>, usize) {
        let count = (HEADER + frame).div_ceil(size);
        let used = self.driver.wait_used(RX, count);
        assert_eq!(used.len(), count);
        let full = used[..count - 1].iter().all(|(_, written)| *written as usize == size);
        assert!(full && used[count - 1].1 as usize == (HEADER + frame) - (count - 1) * size);
        let bytes = self.driver.bytes(at, HEADER + frame);
        assert_eq!(bytes[..10], [0; 10]);
        assert_eq!(bytes[10..HEADER], (count as u16).to_le_bytes());
        (bytes[HEADER..].to_vec(), count)
    }
}

#[test]
fn frames_for_the_guest_fill_as_many_buffers_as_they_need() {
    for without in [0, feature::EVENT_IDX] {
        let mut wire = Wire::new(without);
        // Of whole multiples of 16 bytes, so that they are one after the other.
        let size = 1536;
        let first = wire.give(size);
        for _ in 1..127 {
            wire.give(size);
        }
        wire.driver.kick(RX);
        let mut at = first;
        // The first large one comes unexpected.
        for length in [60, 1514, 1524, 1525, 64_000, 60, LARGEST - HEADER, 1514] {
            assert!(wire.host.send(&pattern(length as u64, length)));
            let (frame, count) = wire.gathered(at, size, length);
            assert!(frame == pattern(length as u64, length), "{length}");
            at += (count * size) as u64;
        }
        assert_eq!(wire.losses(), (0, 0));
        assert_eq!(wire.counts.received.get(), 8);
    }
}

#[test]
fn a_frame_waits_for_buffers_and_is_whole() {
    for without in [0, feature::EVENT_IDX] {
        let mut wire = Wire::new(without);
        let at = wire.give(4096);
        wire.driver.kick(RX);
        assert!(wire.host.send(&pattern(1, 10_000)) && wire.host.send(&pattern(2, 60)));
        wire.driver.settle();
        assert_eq!(wire.driver.used(RX), []);
        wire.give(4096);
        wire.driver.kick(RX);
        wire.driver.settle();
        assert_eq!(wire.driver.used(RX), []);
        wire.give(4096);
        wire.driver.kick(RX);
        assert_eq!(wire.gathered(at, 4096, 10_000), (pattern(1, 10_000), 3));
        let next = wire.give(4096);
        wire.driver.kick(RX);
        assert_eq!(wire.gathered(next, 4096, 60), (pattern(2, 60), 1));
        assert_eq!(wire.losses(), (0, 0));
    }
}

#[test]
fn a_frame_that_never_fits_is_lost_and_the_next_one_comes() {
    let mut wire = Wire::new(MRG_RXBUF | GUEST_TSO4);
    assert_eq!(wire.host.accepted.load(Ordering::SeqCst) & (MRG_RXBUF | GUEST_TSO4), 0);
    let at = wire.give(1600);
    wire.give(1600);
    wire.driver.kick(RX);
    assert!(wire.host.send(&pattern(1, 2000)) && wire.host.send(&pattern(2, 1514)));
    assert_eq!(wire.gathered(at, 1600, 1514), (pattern(2, 1514), 1));
    assert_eq!(wire.losses(), (1, 0));
    // Longer than any can be, and one that has not even a header.
    assert!(wire.host.send(&pattern(1, LARGEST)));
    rustix::net::send(&wire.host.socket, &[0; 5], SendFlags::empty()).unwrap();
    assert!(wire.host.send(&pattern(3, 60)));
    assert_eq!(wire.gathered(at + 1600, 1600, 60), (pattern(3, 60), 1));
    assert_eq!(wire.losses(), (1, 2));
}

#[test]
fn frames_wait_on_the_host_while_the_guest_has_no_buffers() {
    for without in [0, feature::EVENT_IDX] {
        let mut wire = Wire::new(without);
        let mut sent = 0;
        while wire.host.send(&pattern(sent, 100)) {
            sent += 1;
            wire.driver.settle();
            assert!(sent < 100_000, "it takes frames that it cannot give");
        }
        let heap = wire.driver.allocate(0);
        for number in 0..sent {
            if number % 64 == 0 {
                wire.driver.heap_reset(heap);
                for _ in 0..64 {
                    wire.give(2048);
                }
                wire.driver.kick(RX);
            }
            let place = heap + 2048 * (number % 64);
            assert_eq!(wire.gathered_one(place), pattern(number, 100), "{number}");
        }
        assert_eq!(wire.losses(), (0, 0));
    }
}

impl Wire {
    /// The next frame, in one buffer.
    fn gathered_one(&mut self, at: u64) -> Vec<u8> {
        // More may have come, but each is looked at in its turn.
        let counts = self.counts.clone();
        let place = self.driver.bytes(at, 2048);
        if place[10..12] == [0, 0] {
            let before = counts.received.get();
            self.driver.until("a frame", |_| counts.received.get() > before);
        }
        self.driver.used(RX);
        let bytes = self.driver.bytes(at, 112);
        self.driver.poke(at + 10, &[0, 0]);
        bytes[HEADER..].to_vec()
    }
}

#[test]
fn frames_wait_in_the_guest_while_the_host_does_not_read() {
    let mut wire = Wire::new(0);
    let at = wire.driver.put(&[&[0; HEADER][..], &pattern(1, 1514)].concat());
    let (mut sent, mut back) = (0, 0);
    while sent - back < 128 {
        wire.driver.add(TX, &[(at, 1526, false)]);
        wire.driver.kick(TX);
        wire.driver.settle();
        sent += 1;
        back += wire.driver.used(TX).len();
        assert!(sent < 100_000, "nobody reads them");
    }
    let mut received = 0;
    while received < sent {
        while let Some(message) = wire.host.receive() {
            assert!(message[HEADER..] == pattern(1, 1514));
            received += 1;
        }
        wire.driver.pump_once();
        back += wire.driver.used(TX).len();
    }
    wire.driver.until("the last one", |driver| {
        back += driver.used(TX).len();
        back == sent
    });
    assert_eq!((wire.losses(), wire.counts.sent.get()), ((0, 0), sent as u64));
}

#[test]
fn a_tap_that_is_gone_leaves_a_quiet_card_without_a_link() {
    // Found by reading, by writing, and by writing while frames wait for room.
    for way in 0..3 {
        let mut wire = Wire::new(0);
        wire.give(2000);
        wire.driver.kick(RX);
        wire.driver.settle();
        let at = wire.driver.put(&[0; 1526]);
        if way == 2 {
            for _ in 0..100_000 {
                wire.driver.add(TX, &[(at, 1526, false)]);
                wire.driver.kick(TX);
                wire.driver.settle();
                if wire.driver.used(TX).is_empty() {
                    break;
                }
            }
        }
        wire.driver.set_register(0x64, 3);
        let generation = wire.driver.register(0xfc);
        assert_eq!(wire.link(), [1, 0]);
        let (_, mut other) = card(7, 1500);
        std::mem::swap(&mut wire.host, &mut other);
        drop(other);
        if way == 1 {
            wire.driver.add(TX, &[(at, 1526, false)]);
            wire.driver.kick(TX);
        }
        wire.driver.until("the link to be down", |driver| driver.config(6) == [0, 0]);
        assert_ne!(wire.driver.register(0xfc), generation);
        assert_eq!(wire.driver.register(0x60) & 2, 2, "the configuration changed");
        wire.driver.settle();
        // What is sent comes back.
        if way > 0 {
            wire.driver.wait_used(TX, 1);
        }
        let dropped = wire.counts.dropped.get();
        wire.transmit(&[(at, 1526, false)]);
        assert_eq!(wire.counts.dropped.get(), dropped + 1);
        wire.driver.restart(0);
        wire.transmit(&[(at, 1526, false)]);
        assert_eq!(wire.link(), [0, 0]);
        wire.driver.settle();
    }
}
