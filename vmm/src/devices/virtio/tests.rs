//! The transport as a driver sees it: registers, negotiation, the status field, queue set-up, interrupts.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    ActivateError, Chain, DeviceKind, DeviceState, Event, QueueError, Resources, RestoreError,
    Running, SaveError, Stopped, VirtioDevice, Virtqueue, feature,
};
use crate::devices::{
    rng::RngState,
    testing::{Driver, MEMORY},
};

/// A device of two queues that gives every chain back, and counts its starts and ends.
#[derive(Default)]
struct Echo {
    alive: Arc<AtomicUsize>,
    starts: Arc<AtomicUsize>,
    fails: bool,
}

struct RunningEcho {
    alive: Arc<AtomicUsize>,
    resources: Resources,
}

impl VirtioDevice for Echo {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        feature::EVENT_IDX | feature::INDIRECT_DESC | 1
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[16, 8]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (index, byte) in (offset..).zip(data) {
            *byte = index.to_le_bytes()[0];
        }
    }

    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError> {
        if self.fails {
            return Err(ActivateError::Queues(9));
        }
        self.starts.fetch_add(1, Ordering::SeqCst);
        self.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(RunningEcho { alive: self.alive.clone(), resources }))
    }

    fn state(&self) -> DeviceState {
        DeviceState::Rng(RngState::default())
    }

    fn check(&self, _: &DeviceState) -> Result<bool, RestoreError> {
        Ok(false)
    }
}

impl Running for RunningEcho {
    fn process(&mut self, event: Event) -> Result<(), QueueError> {
        let Event::Doorbell(index) = event else { panic!("there is no source") };
        let Resources { memory, queues, interrupt, .. } = &mut self.resources;
        let mut chain = Chain::default();
        while queues[index].pop(memory, &mut chain)? {
            queues[index].push(memory, chain.head(), 7)?;
        }
        if queues[index].wants_interrupt(memory)? {
            interrupt.used();
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<Stopped, SaveError> {
        let positions = self.resources.queues.iter().map(Virtqueue::position).collect();
        Ok(Stopped { positions, device: None })
    }
}

impl Drop for RunningEcho {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A driver at `DRIVER`, with the features of `accept` written.
fn negotiating(accept: u64) -> Driver {
    let mut driver = Driver::attach(Echo::default());
    driver.set_register(0x70, 1);
    driver.set_register(0x70, 3);
    driver.accept(accept);
    driver
}

#[test]
fn the_registers_say_what_the_device_is() {
    let mut driver = Driver::attach(Echo::default());
    assert_eq!(driver.register(0x00), 0x7472_6976);
    assert_eq!(driver.register(0x04), 2);
    assert_eq!(driver.register(0x08), 4);
    assert_eq!(driver.offered(), 1 | 1 << 28 | 1 << 29 | 1 << 32);
    driver.set_register(0x14, 2);
    assert_eq!(driver.register(0x10), 0);
    for (queue, size) in [(0, 16), (1, 8), (2, 0), (u32::MAX, 0)] {
        driver.set_register(0x30, queue);
        assert_eq!(driver.register(0x34), size);
    }
    assert_eq!(driver.register(0xb0), u32::MAX, "no shared memory");
    assert_eq!(driver.config::<3>(5), [5, 6, 7]);
}

#[test]
fn accesses_of_a_wrong_width_or_place_do_nothing() {
    let driver = Driver::attach(Echo::default());
    for (offset, length) in [(0x70, 1), (0x70, 2), (0x71, 4), (0x70, 8), (0xfff, 4), (u64::MAX, 4)]
    {
        driver.transport().write(offset, &[1, 0, 0, 0, 0, 0, 0, 0][..length]);
    }
    assert_eq!(driver.register(0x70), 0);
    for offset in [0x01, 0x0c4, 0x020, 0x050] {
        assert_eq!(driver.register(offset), 0, "{offset:#x}");
    }
    let mut data = [9; 2];
    driver.transport().read(0, &mut data);
    assert_eq!(data, [0, 0]);
}

#[test]
fn features_not_offered_or_a_legacy_driver_are_refused() {
    for accept in [1 << 32 | 2, 1, 0, 1 << 33 | 1 << 32] {
        let driver = negotiating(accept);
        driver.set_register(0x70, 11);
        assert_eq!(driver.register(0x70), 3, "{accept:#x}");
    }
    let driver = negotiating(1 << 32);
    driver.set_register(0x70, 11);
    assert_eq!(driver.register(0x70), 11);
}

#[test]
fn features_are_fixed_once_agreed() {
    let starts = Arc::<AtomicUsize>::default();
    let mut driver = Driver::attach(Echo { starts: starts.clone(), ..Echo::default() });
    driver.accept(1 << 40);
    driver.set_register(0x70, 1);
    driver.set_register(0x70, 3);
    driver.accept(1 << 32);
    driver.set_register(0x70, 11);
    driver.accept(1 << 40);
    for queue in 0..2 {
        driver.set_up_queue(queue);
    }
    driver.set_register(0x70, 15);
    assert_eq!(driver.register(0x70), 15);
    assert_eq!(starts.load(Ordering::SeqCst), 1);
}

#[test]
fn a_device_runs_from_driver_ok_to_reset_or_failure() {
    let (alive, starts) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let mut driver =
        Driver::start(Echo { alive: alive.clone(), starts: starts.clone(), fails: false }, 0);
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    for illegal in [11, 3, 1, 15 | 16] {
        driver.set_register(0x70, illegal);
        assert_eq!(driver.register(0x70), 15);
    }
    driver.set_register(0x70, 0);
    assert_eq!((driver.register(0x70), alive.load(Ordering::SeqCst)), (0, 0));
    for queue in 0..2 {
        driver.set_register(0x30, queue);
        assert_eq!(driver.register(0x44), 0);
    }
    driver.restart(0);
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    driver.set_register(0x70, 15 | 128);
    assert_eq!((driver.register(0x70), alive.load(Ordering::SeqCst)), (143, 0));
    driver.set_register(0x70, 143);
    driver.kick(0);
    driver.pump();
    driver.restart(0);
    assert_eq!(starts.load(Ordering::SeqCst), 3);
}

#[test]
fn a_queue_must_be_usable_to_become_ready() {
    let driver = negotiating(1 << 32);
    driver.set_register(0x70, 11);
    let set = |register, address: u64| {
        driver.set_register(register, address as u32);
        driver.set_register(register + 4, (address >> 32) as u32);
    };
    let ready = |size, descriptors, avail, used| {
        driver.set_register(0x44, 0);
        driver.set_register(0x38, size);
        set(0x80, descriptors);
        set(0x90, avail);
        set(0xa0, used);
        driver.set_register(0x44, 1);
        driver.register(0x44) == 1
    };
    driver.set_register(0x30, 0);
    assert!(ready(16, 0x1000, 0x2000, 0x3000));
    assert!(ready(8, MEMORY - 128, 0x2000, 0x3000));
    for size in [0, 3, 17, 32, 1 << 16, u32::MAX] {
        assert!(!ready(size, 0x1000, 0x2000, 0x3000), "{size}");
    }
    for (descriptors, avail, used) in [
        (0x1008, 0x2000, 0x3000),
        (0x1000, 0x2001, 0x3000),
        (0x1000, 0x2000, 0x3002),
        (0, 0x2000, 0x3000),
        (MEMORY - 128, 0x2000, 0x3000),
        (0x1000, MEMORY - 36, 0x3000),
        (0x1000, 0x2000, MEMORY - 132),
        (u64::MAX - 15, 0x2000, 0x3000),
    ] {
        assert!(!ready(16, descriptors, avail, used), "{descriptors:#x} {avail:#x} {used:#x}");
    }
    assert!(ready(16, 0x1000, 0x2000, 0x3000));
    set(0x80, 0x5000);
    driver.set_register(0x70, 15);
    assert_eq!(driver.register(0x70), 15 | 64, "the other queue is not ready");
    assert_eq!(driver.register(0x60), 2);
    assert!(driver.interrupt.read().is_ok());
}

#[test]
fn a_device_that_does_not_start_needs_a_reset() {
    let mut driver = Driver::attach(Echo { fails: true, ..Echo::default() });
    driver.initialize(0);
    assert_eq!(driver.register(0x70), 15 | 64);
    driver.set_register(0x70, 0);
    assert_eq!(driver.register(0x70), 0);
    assert_eq!(driver.register(0x60), 0);
}

#[test]
fn one_interrupt_for_a_batch_and_none_that_is_not_wanted() {
    for without in [0, feature::EVENT_IDX] {
        let mut driver = Driver::start(Echo::default(), without);
        for _ in 0..3 {
            driver.add(0, &[(0x20000, 16, false)]);
        }
        driver.kick(0);
        driver.pump();
        assert_eq!(driver.used(0), [(0, 7), (1, 7), (2, 7)]);
        assert_eq!(driver.interrupt.read().unwrap(), 1);
        assert_eq!(driver.register(0x60), 1);
        driver.set_register(0x64, 1);
        assert_eq!(driver.register(0x60), 0);
        // The driver wants none: by the flag, or by an index that is not reached.
        let avail = driver.rings[0].avail;
        let (at, value) = if without == 0 { (avail + 4 + 32, 10) } else { (avail, 1) };
        driver.poke(at, &[value, 0]);
        driver.add(0, &[(0x20000, 16, false)]);
        driver.kick(0);
        driver.pump();
        assert_eq!(driver.used(0), [(3, 7)]);
        assert!(driver.interrupt.read().is_err());
        // Ringing without a chain raises nothing.
        driver.poke(at, &[if without == 0 { 3 } else { 0 }, 0]);
        driver.kick(0);
        driver.pump();
        assert!(driver.interrupt.read().is_err());
    }
}

#[test]
fn a_ring_with_more_chains_than_places_stops_the_device() {
    let alive = Arc::<AtomicUsize>::default();
    let mut driver = Driver::start(Echo { alive: alive.clone(), ..Echo::default() }, 0);
    let avail = driver.rings[1].avail;
    driver.poke(avail + 2, &[9, 0]);
    driver.kick(1);
    driver.pump();
    assert_eq!(driver.register(0x70), 15 | 64);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_changed_configuration_has_a_new_generation() {
    let driver = Driver::start(Echo::default(), 0);
    let before = driver.register(0xfc);
    driver.transport().config_changed();
    assert_ne!(driver.register(0xfc), before);
    assert_eq!(driver.register(0x60), 2);
    assert!(driver.interrupt.read().is_ok());
}
