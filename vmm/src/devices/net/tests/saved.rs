//! A card across a save, and a slot that gets a tap.

use super::*;
use crate::devices::{
    suite::Subject,
    virtio::{RestoreError, TransportState},
};

/// A guest that sends frames and gets some.
pub(in crate::devices) struct Talk(Wire);

impl Subject for Talk {
    type Device = Net;

    fn start(without: u64) -> Self {
        Self(Wire::new(without))
    }

    fn driver(&mut self) -> &mut Driver {
        &mut self.0.driver
    }

    fn another(&mut self) -> Net {
        let (net, host) = card(1, 1500);
        (self.0.host, self.0.counts) = (host, net.counts());
        net
    }

    fn drive(&mut self, round: u32, meanwhile: &mut dyn FnMut(&mut Self)) -> Vec<u8> {
        let heap = self.0.driver.allocate(0);
        // Of whatever the driver did before.
        while self.0.host.receive().is_some() {}
        let at = self.0.give(2048);
        let frame = pattern(round.into(), 60 + round as usize);
        let message = self.0.driver.put(&[&[0; HEADER], &frame[..]].concat());
        self.0.driver.kick(RX);
        let head = self.0.driver.add(TX, &[(message, (HEADER + frame.len()) as u32, false)]);
        self.0.driver.kick(TX);
        meanwhile(self);
        assert_eq!(self.0.driver.wait_used(TX, 1), [(head, 0)]);
        // The device that was saved may have sent it.
        let sent = self.0.host.receive();
        assert!(sent.is_none_or(|sent| sent[HEADER..] == frame));
        assert!(self.0.host.send(&frame));
        let used = self.0.driver.wait_used(RX, 1);
        let bytes = self.0.driver.bytes(at, HEADER + frame.len());
        self.0.driver.heap_reset(heap);
        [&used[0].0.to_le_bytes()[..], &used[0].1.to_le_bytes(), &bytes].concat()
    }
}

/// Goes on from `state` with another card.
fn go_on(
    wire: &mut Wire,
    net: Net,
    host: Host,
    state: &TransportState,
) -> Result<(), RestoreError> {
    (wire.host, wire.counts) = (host, net.counts());
    wire.driver.restore(net, state)
}

#[test]
fn a_slot_has_no_link_and_swallows_what_is_sent_until_it_gets_a_tap() {
    let slot = Net::open(&nic(9, 65535)).unwrap();
    let counts = slot.counts();
    let mut wire = Wire { driver: Driver::start(slot, 0), host: card(0, 1500).1, counts };
    assert_eq!(wire.link(), [0, 0]);
    let at = wire.give(2000);
    wire.driver.kick(RX);
    wire.transmit_cut([0; HEADER], &pattern(1, 60), 12);
    wire.driver.settle();
    assert_eq!((wire.driver.used(RX), wire.losses()), (Vec::new(), (1, 0)));
    wire.driver.set_register(0x64, 3);
    let generation = wire.driver.register(0xfc);

    // Still none: the driver has nothing to look at.
    let state = wire.driver.transport().save().unwrap();
    wire.driver.restore(Net::open(&nic(9, 65535)).unwrap(), &state).unwrap();
    assert_eq!((wire.driver.register(0x60), wire.driver.register(0xfc)), (0, generation));

    let (net, host) = card(3, 9000);
    go_on(&mut wire, net, host, &state).unwrap();
    assert_eq!(wire.driver.register(0x60), 2, "the configuration changed");
    assert_ne!(wire.driver.register(0xfc), generation);
    assert!(wire.driver.interrupt.read().is_ok());
    assert_eq!(wire.driver.config(0), [2, 0, 0, 0, 0, 3, 1, 0, 0, 0, 0x28, 0x23]);
    assert!(wire.host.accepted.load(Ordering::SeqCst) & ALL == ALL);
    // The buffer that was given before is there.
    assert!(wire.host.send(&pattern(2, 60)));
    assert_eq!(wire.driver.wait_used(RX, 1).len(), 1);
    assert_eq!(wire.driver.bytes(at + 12, 60), pattern(2, 60));
    wire.transmit_cut([0; HEADER], &pattern(3, 9014), 12);
    assert_eq!(wire.host.receive().unwrap()[HEADER..], pattern(3, 9014));
}

#[test]
fn a_frame_that_waits_for_buffers_is_lost_when_the_machine_is_saved() {
    let mut wire = Wire::new(0);
    wire.give(4096);
    wire.driver.kick(RX);
    assert!(wire.host.send(&pattern(1, 10_000)));
    wire.driver.until("the frame to be read", |driver| {
        driver.bytes(crate::devices::testing::HEAP + 12, 8) != [0; 8]
    });
    wire.driver.settle();
    assert_eq!(wire.losses(), (0, 0));
    wire.driver.transport().save().unwrap();
    assert_eq!(wire.losses(), (1, 0));
    wire.driver.transport().resume();
    // It comes while nobody looks, and is there afterwards.
    wire.driver.transport().save().unwrap();
    assert!(wire.host.send(&pattern(2, 60)));
    wire.driver.settle();
    assert_eq!(wire.driver.used(RX), []);
    wire.driver.transport().resume();
    assert_eq!(wire.driver.wait_used(RX, 1)[0].1, 72);
}

#[test]
fn what_cannot_have_been_saved_is_refused() {
    let mut wire = Wire::new(0);
    let good = serde_json::to_value(wire.driver.transport().save().unwrap()).unwrap();
    for (place, value, why) in [
        ("/device/Net/mac", "03:00:00:00:00:01".into(), "address is 0x30"),
        ("/device/Net/mtu", 67.into(), "MTU is 0x43"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        let state = serde_json::from_value(bad).unwrap();
        let (net, host) = card(1, 1500);
        let error = go_on(&mut wire, net, host, &state).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
