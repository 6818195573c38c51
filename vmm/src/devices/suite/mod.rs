//! One suite over every device: it is saved at any time, goes on itself or has another go on in its place, and nobody notices; a state
//! that was tampered with is refused or harmless.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod tampered;

use proptest::{collection::vec, prelude::*, sample::Index};
use serde::Deserialize;
use serde_json::{Value, json};

use self::tampered::tampered;
use super::{
    chaos,
    testing::{Driver, MEMORY},
    virtio::{TransportState, VirtioDevice, feature},
};

/// A device and its driver, as the suite needs them.
pub(super) trait Subject {
    type Device: VirtioDevice + 'static;

    /// A running device, whose driver does without some features.
    fn start(without: u64) -> Self;

    fn driver(&mut self) -> &mut Driver;

    /// A device to take this one's place.
    fn another(&mut self) -> Self::Device;

    /// The driver was reset and started again, with empty rings.
    fn prepare(&mut self) {}

    /// One round of what a driver does, at least one chain; and what is to be seen of it, the same for the same `round`. Calls
    /// `meanwhile` at any point at which the device can be saved.
    fn drive(&mut self, round: u32, meanwhile: &mut dyn FnMut(&mut Self)) -> Vec<u8>;
}

/// The suite for each device.
macro_rules! devices {
    ($($name:ident: $subject:ty,)*) => {
        $(mod $name {
            use crate::devices::suite;

            #[test]
            fn another_goes_on_in_its_place() {
                suite::goes_on::<$subject>();
            }

            #[test]
            fn it_is_saved_while_a_driver_starts_it() {
                suite::starts::<$subject>();
            }

            #[test]
            fn it_is_saved_among_whatever_a_driver_does() {
                suite::survives_chaos::<$subject>();
            }

            #[test]
            fn what_cannot_be_is_refused() {
                suite::refuses::<$subject>();
            }

            #[test]
            fn a_state_that_was_tampered_with_does_no_harm() {
                suite::survives_tampering::<$subject>();
            }
        })*

        #[test]
        fn a_state_of_another_kind_is_refused() {
            let states = [$(save::<$subject>(&mut <$subject>::start(0))),*];
            let mut index = 0;
            $(
                refuses_others::<$subject>(&states, index);
                index += 1;
            )*
            assert_eq!(index, states.len());
        }
    };
}

// One line for each device.
devices! {
    balloon: crate::devices::balloon::tests::Fixture,
    block: crate::devices::block::tests::Fixture,
    fs: crate::devices::fs::tests::Guest,
    net: crate::devices::net::tests::saved::Talk,
    rng: crate::devices::rng::tests::Guest,
    vsock: crate::devices::vsock::tests::saved::Talk,
}

/// A state, after a way through a file.
fn save<S: Subject>(subject: &mut S) -> TransportState {
    let state = subject.driver().transport().save().unwrap();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<TransportState>(&text).unwrap(), state);
    let bytes = postcard::to_stdvec(&state).unwrap();
    assert_eq!(postcard::from_bytes::<TransportState>(&bytes).unwrap(), state);
    state
}

fn move_over<S: Subject>(subject: &mut S) {
    let state = save(subject);
    let device = subject.another();
    subject.driver().restore(device, &state).unwrap();
}

fn restart<S: Subject>(subject: &mut S) {
    subject.driver().restart(0);
    subject.prepare();
}

/// The registers that a driver can read.
fn registers(driver: &Driver) -> Vec<u32> {
    let mut registers: Vec<_> = (0..0x100).step_by(4).map(|at| driver.register(at)).collect();
    registers.extend((0..64).map(|at| u32::from(driver.config::<1>(at)[0])));
    registers
}

fn goes_on<S: Subject>() {
    for without in [0, feature::EVENT_IDX] {
        let [mut same, mut moved] = [S::start(without), S::start(without)];
        for round in 0..12 {
            for subject in [&mut same, &mut moved] {
                subject.driver().want_interrupts();
            }
            let expected = same.drive(round, &mut |_| {});
            let seen = moved.drive(round, &mut |subject| match round % 4 {
                0 => move_over(subject),
                1 => {
                    save(subject);
                    subject.driver().transport().resume();
                }
                _ => {}
            });
            assert_eq!(seen, expected, "round {round}");
            for subject in [&mut same, &mut moved] {
                let driver = subject.driver();
                driver.until("an interrupt", |driver| driver.register(0x60) == 1);
            }
            assert_eq!(registers(moved.driver()), registers(same.driver()), "round {round}");
            if round % 2 == 0 {
                for subject in [&mut same, &mut moved] {
                    subject.driver().set_register(0x64, 1);
                }
            }
            save(&mut moved);
            move_over(&mut moved);
            assert_eq!(registers(moved.driver()), registers(same.driver()), "round {round}");
            // What was pending is raised again.
            assert_eq!(moved.driver().interrupt.read().is_ok(), round % 2 == 1);
        }
    }
}

/// The steps of virtio 1.3, 3.1.1, each by another device.
fn starts<S: Subject>() {
    let mut subject = S::start(0);
    subject.driver().set_register(0x70, 0);
    subject.driver().empty_rings();
    let set = |subject: &mut S, register, value| {
        subject.driver().set_register(register, value);
        let before = registers(subject.driver());
        move_over(subject);
        assert_eq!(registers(subject.driver()), before);
    };
    for status in [1, 3] {
        set(&mut subject, 0x70, status);
    }
    let offered = subject.driver().offered();
    set(&mut subject, 0x24, 1);
    set(&mut subject, 0x20, (offered >> 32) as u32);
    set(&mut subject, 0x24, 0);
    set(&mut subject, 0x20, offered as u32);
    set(&mut subject, 0x70, 11);
    for queue in 0..subject.driver().rings.len() {
        set(&mut subject, 0x30, queue as u32);
        set(&mut subject, 0x38, 3);
        subject.driver().set_up_queue(queue);
    }
    set(&mut subject, 0x70, 15);
    subject.prepare();
    subject.drive(0, &mut |_| {});
    set(&mut subject, 0x70, 15 | 128);
    assert_eq!(subject.driver().register(0x70), 15 | 128);
    restart(&mut subject);
    subject.drive(0, &mut |_| {});
}

fn survives_chaos<S: Subject>() {
    let queues = S::start(0).driver().rings.len();
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in vec((chaos::step(queues), 0u8..24), 0..80))| {
        let mut subject = S::start(0);
        for (step, pause) in steps {
            chaos::apply(subject.driver(), step);
            if pause > 1 {
                continue;
            }
            // What is under way may be such that it is not saved.
            let state = subject.driver().transport().save();
            let Ok(state) = state else { continue };
            let driver = subject.driver();
            let before = driver.bytes(0, MEMORY as usize);
            (0..queues).for_each(|queue| driver.kick(queue));
            driver.settle();
            prop_assert!(driver.bytes(0, MEMORY as usize) == before, "it touched memory");
            if pause == 0 {
                driver.transport().resume();
            } else {
                let device = subject.another();
                subject.driver().restore(device, &state).unwrap();
            }
        }
        restart(&mut subject);
        prop_assert_eq!(subject.driver().register(0x70), 15);
        subject.drive(0, &mut |_| {});
    });
}

/// Lets another device go on from `state`, if it does, and sees that it can still be used.
fn attempt<S: Subject>(subject: &mut S, state: &TransportState, steps: Vec<chaos::Step>) {
    let device = subject.another();
    match subject.driver().restore(device, state) {
        Ok(()) => {
            for queue in 0..subject.driver().rings.len() {
                subject.driver().kick(queue);
            }
            subject.driver().settle();
            for step in steps {
                chaos::apply(subject.driver(), step);
            }
        }
        Err(error) => clear(&error.to_string()),
    }
    restart(subject);
    subject.drive(0, &mut |_| {});
}

/// A message is one line that says something.
fn clear(message: &str) {
    assert!(message.len() > 10 && !message.contains(char::is_control), "{message:?}");
}

fn refuses<S: Subject>() {
    let mut subject = S::start(0);
    subject.drive(0, &mut |_| {});
    let good = serde_json::to_value(save(&mut subject)).unwrap();
    let queue = &good["queues"][0];
    let number = |value: &Value| value.as_u64().unwrap();
    let device = good["device"].as_object().unwrap();
    let kind = device.keys().next().unwrap();
    let version = format!("/device/{kind}/version");
    let queues = good["queues"].as_array().unwrap();
    for (place, value, why) in [
        ("/version", json!(2), "version 2"),
        (&version, json!(99), "version 99"),
        ("/status", json!(12), "status is 0xc"),
        ("/status", json!(15 | 64), "status is 0x4f"),
        ("/status", json!(15 | 16), "status is 0x1f"),
        ("/interrupt", json!(4), "interrupt status is 0x4"),
        ("/interrupt", json!(1u64 << 32), "invalid value"),
        ("/accepted", json!(0), "accepted features is 0x0"),
        ("/accepted", json!(1u64 << 32 | 1 << 63), "accepted features is 0x8"),
        ("/offered", json!(number(&good["offered"]) | 1 << 63), "set of features was 0x8"),
        ("/queues", json!([]), "number of queues was 0"),
        ("/queues", json!([queues.clone(), vec![queue.clone()]].concat()), "number of queues"),
        ("/queues/0/ready", json!(false), "queue 0 cannot be"),
        ("/queues/0/size", json!(3), "queue 0 cannot be"),
        ("/queues/0/size", json!(1 << 16), "queue 0 cannot be"),
        ("/queues/0/descriptors", json!(0), "queue 0 cannot be"),
        ("/queues/0/descriptors", json!(number(&queue["descriptors"]) + 1), "queue 0 cannot be"),
        ("/queues/0/driver", json!(MEMORY), "queue 0 cannot be"),
        ("/queues/0/device", json!(u64::MAX - 3), "queue 0 cannot be"),
        ("/queues/0/next", json!(1 << 16), "invalid value"),
        ("/device", json!({ "Teapot": {} }), "unknown variant"),
        ("/generation", Value::Null, "invalid type"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        refused(&mut subject, bad, place, why);
    }
    // A driver that is not ready has no chains and no failure.
    for (place, value, why) in
        [("/queues/0/next", json!(1), "queue 0"), ("/broken", json!(true), "failure is 0x1")]
    {
        let mut bad = good.clone();
        for queue in bad["queues"].as_array_mut().unwrap() {
            queue["next"] = json!(0);
        }
        bad["status"] = json!(11);
        *bad.pointer_mut(place).unwrap() = value;
        refused(&mut subject, bad, place, why);
    }
    let mut bad = good.clone();
    bad["surplus"] = json!(0);
    refused(&mut subject, bad, "/surplus", "unknown field");
    let state = serde_json::from_value(good).unwrap();
    let device = subject.another();
    subject.driver().restore(device, &state).unwrap();
}

fn refused<S: Subject>(subject: &mut S, bad: Value, place: &str, why: &str) {
    let message = match serde_json::from_value(bad) {
        Ok(state) => {
            let device = subject.another();
            let error = subject.driver().restore(device, &state).expect_err(place).to_string();
            assert_eq!(subject.driver().register(0x70), 0, "{place}");
            error
        }
        Err(error) => error.to_string(),
    };
    clear(&message);
    assert!(message.contains(why), "{place}: {message}");
}

fn refuses_others<S: Subject>(states: &[TransportState], own: usize) {
    let mut subject = S::start(0);
    for (index, state) in states.iter().enumerate() {
        let device = subject.another();
        let result = subject.driver().restore(device, state);
        match result {
            Ok(()) => assert_eq!(index, own),
            Err(error) => {
                assert_ne!(index, own, "{error}");
                assert!(error.to_string().contains("is given to the"), "{error}");
            }
        }
    }
}

fn survives_tampering<S: Subject>() {
    let mut subject = S::start(0);
    subject.drive(0, &mut |_| {});
    let good = save(&mut subject);
    let value = serde_json::to_value(&good).unwrap();
    for bad in tampered(&value) {
        match serde_json::from_value(bad) {
            Ok(state) if state == good => {}
            Ok(state) => attempt(&mut subject, &state, Vec::new()),
            Err(error) => clear(&error.to_string()),
        }
    }
    let text = value.to_string();
    for end in 0..text.len() {
        serde_json::from_str::<TransportState>(&text[..end]).unwrap_err();
    }
    // As the file has it.
    let bytes = postcard::to_stdvec(&good).unwrap();
    for end in 0..bytes.len() {
        postcard::from_bytes::<TransportState>(&bytes[..end]).unwrap_err();
        for bit in [0x01, 0x40, 0x80] {
            let mut bad = bytes.clone();
            bad[end] ^= bit;
            if let Ok(state) = postcard::from_bytes(&bad) {
                attempt(&mut subject, &state, Vec::new());
            }
        }
    }
    let queues = subject.driver().rings.len();
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() };
    let steps = vec(chaos::step(queues), 0..20);
    proptest!(config, |(changes in vec(any::<Index>(), 2..5), steps in steps)| {
        let mut subject = S::start(0);
        subject.drive(0, &mut |_| {});
        let good = save(&mut subject);
        let mut value = serde_json::to_value(&good).unwrap();
        for change in changes {
            let mut ways = tampered(&value);
            let first = change.index(ways.len());
            ways.rotate_left(first);
            // One that can be decoded is of more use.
            let decodes = |bad: &Value| TransportState::deserialize(bad).is_ok();
            value = ways.into_iter().find(decodes).unwrap_or(value);
        }
        attempt(&mut subject, &serde_json::from_value(value).unwrap(), steps);
    });
}
