//! Threads come with the first request and go when there is nothing to do.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::devices::{
    rng::RngState,
    testing::Driver,
    virtio::{
        ActivateError, Chain, DeviceKind, DeviceState, RestoreError, Running, VirtioDevice, feature,
    },
};

/// Requests of a longer chain than this wait until they are let through.
const FAST: usize = 1;

#[derive(Default)]
struct Clerk {
    /// How often a thread cannot be prepared.
    fails: AtomicUsize,
    /// Threads that are prepared.
    prepared: Arc<AtomicUsize>,
    /// Slow requests that wait.
    slow: AtomicUsize,
    open: Mutex<bool>,
    opened: Condvar,
}

/// A thread's own.
struct Desk(Arc<AtomicUsize>);

impl Drop for Desk {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Clerk {
    fn threads(&self) -> usize {
        self.prepared.load(Ordering::SeqCst)
    }

    fn let_through(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl Work for Clerk {
    type Desk = Desk;

    const THREADS: usize = 2;

    fn name(&self) -> String {
        "clerk".to_owned()
    }

    fn desk(&self) -> io::Result<Desk> {
        if self
            .fails
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.prepared.fetch_add(1, Ordering::SeqCst);
        Ok(Desk(self.prepared.clone()))
    }

    fn serve(&self, rings: &Rings, _: &mut Desk, lead: &mut Lead<'_>) -> Result<(), QueueError> {
        let mut chain = Chain::default();
        while !lead.is_over() {
            let mut queues = rings.queues();
            if !queues[0].pop(&rings.memory, &mut chain)? {
                if queues[0].enable_doorbell(&rings.memory)? {
                    continue;
                }
                break;
            }
            drop(queues);
            let slow = chain.readable.len() > FAST;
            let gone = slow && lead.give_away();
            if slow {
                self.slow.fetch_add(1, Ordering::SeqCst);
                let open = self.open.lock().unwrap();
                drop(self.opened.wait_while(open, |open| !*open).unwrap());
            }
            let mut queues = rings.queues();
            queues[0].push(&rings.memory, chain.head(), 0)?;
            if gone {
                break;
            }
        }
        Ok(())
    }
}

struct Office(Arc<Clerk>);

impl VirtioDevice for Office {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        feature::EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[16]
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn own_threads(&self) -> bool {
        true
    }

    fn activate(&mut self, resources: Resources) -> Result<Box<dyn Running>, ActivateError> {
        Ok(Box::new(Crew::new(&self.0, resources, 1)?))
    }

    fn state(&self) -> DeviceState {
        DeviceState::Rng(RngState::default())
    }

    fn check(&self, _: &DeviceState) -> Result<bool, RestoreError> {
        Ok(false)
    }
}

fn office(without: u64) -> (Driver, Arc<Clerk>) {
    let clerk = Arc::<Clerk>::default();
    (Driver::start(Office(clerk.clone()), without), clerk)
}

/// Makes a request of so many bytes.
fn ask(driver: &mut Driver, length: u32) {
    let address = driver.allocate(16);
    driver.add(0, &[(address, length, false)]);
    driver.kick(0);
}

fn answered(driver: &mut Driver, length: u32) {
    ask(driver, length);
    driver.wait_used(0, 1);
}

#[test]
fn an_idle_device_has_no_threads() {
    for without in [0, feature::EVENT_IDX] {
        let (mut driver, clerk) = office(without);
        driver.settle();
        assert_eq!(clerk.threads(), 0);
        for _ in 0..2 {
            answered(&mut driver, 1);
            driver.until("the thread to go", |_| clerk.threads() == 0);
        }
    }
}

#[test]
fn a_ring_without_a_request_starts_no_thread() {
    let (mut driver, clerk) = office(0);
    driver.kick(0);
    driver.settle();
    assert_eq!(clerk.threads(), 0);
}

#[test]
fn slow_requests_hold_up_no_others() {
    let (mut driver, clerk) = office(0);
    ask(&mut driver, 2);
    driver.until("the slow request", |_| clerk.slow.load(Ordering::SeqCst) == 1);
    for _ in 0..20 {
        answered(&mut driver, 1);
    }
    assert_eq!(clerk.threads(), 2);
    // As many as there may be threads hold up all.
    ask(&mut driver, 2);
    ask(&mut driver, 1);
    driver.until("another slow request", |_| clerk.slow.load(Ordering::SeqCst) == 2);
    driver.settle();
    assert!(driver.used(0).is_empty());
    clerk.let_through();
    driver.wait_used(0, 3);
    driver.until("the threads to go", |_| clerk.threads() == 0);
    answered(&mut driver, 1);
}

#[test]
fn a_request_waits_until_the_host_has_a_thread() {
    let (mut driver, clerk) = office(0);
    clerk.fails.store(3, Ordering::SeqCst);
    answered(&mut driver, 1);
    assert_eq!(clerk.fails.load(Ordering::SeqCst), 0);
}

#[test]
fn a_slow_request_is_answered_where_there_is_one_thread_only() {
    let (mut driver, clerk) = office(0);
    answered(&mut driver, 1);
    clerk.fails.store(1, Ordering::SeqCst);
    clerk.let_through();
    answered(&mut driver, 2);
    answered(&mut driver, 1);
}

#[test]
fn a_device_without_threads_is_saved_and_goes_on() {
    let (mut driver, clerk) = office(0);
    for _ in 0..3 {
        answered(&mut driver, 1);
        driver.until("the thread to go", |_| clerk.threads() == 0);
        let saved = driver.transport().save().unwrap();
        // Nobody answers it yet.
        ask(&mut driver, 1);
        driver.settle();
        assert!(driver.used(0).is_empty());
        assert_eq!(clerk.threads(), 0);
        driver.transport().resume();
        driver.wait_used(0, 1);
        assert_eq!(driver.transport().save().unwrap().queues[0].next, saved.queues[0].next + 1);
        driver.transport().resume();
    }
}

#[test]
fn threads_end_with_a_save_and_a_reset() {
    let (mut driver, clerk) = office(0);
    for round in 0..10 {
        answered(&mut driver, 1);
        if round % 2 == 0 {
            driver.transport().save().unwrap();
            assert_eq!(clerk.threads(), 0);
            driver.transport().resume();
        } else {
            driver.restart(0);
            assert_eq!(clerk.threads(), 0);
        }
    }
}

#[test]
fn a_broken_ring_ends_the_threads() {
    for busy in [false, true] {
        let (mut driver, clerk) = office(0);
        if busy {
            answered(&mut driver, 1);
        }
        // More chains than the queue has entries.
        let index = driver.rings[0].avail + 2;
        driver.poke(index, &1000u16.to_le_bytes());
        driver.kick(0);
        driver.until("the driver to be told", |driver| driver.register(0x70) & 0x40 != 0);
        driver.until("the threads to go", |_| clerk.threads() == 0);
        driver.restart(0);
        answered(&mut driver, 1);
    }
}
