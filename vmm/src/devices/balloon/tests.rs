//! The balloon as a driver sees it, and the memory behind it.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

use std::{io::Write, os::unix::fs::FileExt, sync::Arc};

use vm_memory::{FileOffset, GuestRegionMmap, MmapRegion};

use super::{
    Balloon, INFLATE, NUMBERS_AT_ONCE, REPORTED_AT_ONCE, REPORTING,
    reclaim::{PAGE, give_back},
};
use crate::{
    devices::{
        BalloonCounts,
        suite::Subject,
        testing::{Driver, HEAP, MEMORY, pattern},
    },
    memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryTrait},
};

const DEFLATE: usize = 1;

/// A guest with a balloon.
pub(in crate::devices) struct Fixture {
    driver: Driver,
    counts: Arc<BalloonCounts>,
}

impl Fixture {
    fn new() -> Self {
        Self::start(0)
    }

    /// One chain; the number of bytes that the device says it wrote, once it gave the chain back.
    fn send(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u32 {
        let head = self.driver.add(queue, buffers);
        self.driver.kick(queue);
        self.driver.settle();
        let used = self.driver.used(queue);
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].0, head);
        used[0].1
    }

    fn inflate(&mut self, pages: &[u32]) {
        let numbers: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        let at = self.driver.put(&numbers);
        self.send(INFLATE, &[(at, numbers.len() as u32, false)]);
    }

    fn is_zero(&self, address: u64, length: usize) -> bool {
        self.driver.bytes(address, length).iter().all(|byte| *byte == 0)
    }

    fn counted(&self) -> (u64, u64) {
        (self.counts.pages.get(), self.counts.errors.get())
    }
}

impl Subject for Fixture {
    type Device = Balloon;

    fn start(without: u64) -> Self {
        let balloon = Balloon::new();
        let counts = balloon.counts();
        Self { driver: Driver::start(balloon, without), counts }
    }

    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn another(&mut self) -> Balloon {
        let balloon = Balloon::new();
        self.counts = balloon.counts();
        balloon
    }

    fn drive(&mut self, round: u32, meanwhile: &mut dyn FnMut(&mut Self)) -> Vec<u8> {
        let page = PAGE as u64;
        let at = (4 << 20) + 4 * page * u64::from(round);
        self.driver.poke(at, &pattern(1, 4 * PAGE));
        let number = self.driver.put(&((at + 3 * page) / page).to_le_bytes());
        let mut seen = Vec::new();
        for (queue, chain) in [
            (REPORTING, (at, 2 * PAGE as u32, true)),
            (INFLATE, (number, 4, false)),
            (DEFLATE, (number, 4, false)),
        ] {
            self.driver.add(queue, &[chain]);
            self.driver.kick(queue);
            meanwhile(self);
            let used = self.driver.wait_used(queue, 1);
            seen.extend([used[0].0.to_le_bytes(), (used[0].1 as u16).to_le_bytes()].concat());
            seen.extend(self.driver.bytes(at, 4 * PAGE));
        }
        assert!(self.is_zero(at, 2 * PAGE) && self.is_zero(at + 3 * page, PAGE));
        seen
    }
}

#[test]
fn it_asks_for_no_page_and_has_room_for_a_whole_report() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.driver.offered() & 0xff, 1 << 5);
    assert_eq!(fixture.driver.config::<8>(0), [0; 8]);
    fixture.driver.set_register(0x30, REPORTING as u32);
    assert_eq!(fixture.driver.register(0x34), 32);
    fixture.driver.set_register(0x30, 3);
    assert_eq!(fixture.driver.register(0x34), 0);
}

#[test]
fn reported_pages_go_back_and_others_stay() {
    let mut fixture = Fixture::new();
    let page = PAGE as u64;
    let before = pattern(1, 16 * PAGE);
    fixture.driver.poke(4 << 20, &before);
    let at = 4 << 20;
    let chain = [(at + page, 2 * PAGE as u32, true), (at + 8 * page, 4 * PAGE as u32, true)];
    assert_eq!(fixture.send(REPORTING, &chain), 0);
    assert_eq!(fixture.counted(), (6, 0));
    for index in 0..16 {
        let (address, gone) = (at + index * page, [1, 2, 8, 9, 10, 11].contains(&index));
        assert_eq!(fixture.is_zero(address, PAGE), gone, "page {index}");
    }
    // The guest uses it again.
    fixture.driver.poke(at + page, &[7; 10]);
    assert_eq!(fixture.driver.bytes(at + page, 11), [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
}

#[test]
fn only_whole_pages_go_back() {
    let mut fixture = Fixture::new();
    let at = 4 << 20;
    fixture.driver.poke(at, &pattern(1, 4 * PAGE));
    fixture.send(REPORTING, &[(at + 100, 2 * PAGE as u32, true)]);
    fixture.send(REPORTING, &[(at + 2 * PAGE as u64 + 1, PAGE as u32, true)]);
    fixture.send(REPORTING, &[(at + 3 * PAGE as u64, PAGE as u32 - 1, true)]);
    assert_eq!(fixture.counted(), (1, 0));
    for index in 0..4 {
        assert_eq!(fixture.is_zero(at + index * PAGE as u64, PAGE), index == 1, "page {index}");
    }
}

#[test]
fn what_is_no_guest_memory_is_counted_and_answered() {
    let mut fixture = Fixture::new();
    let at = 4 << 20;
    fixture.driver.poke(at, &pattern(1, PAGE));
    let page = PAGE as u32;
    for (chain, errors) in [
        (vec![(MEMORY, page, true)], 1),
        (vec![(at, page, true), (MEMORY - 8, page, true)], 2),
        (vec![(u64::MAX - 8, page, true)], 3),
        (vec![(at, page, true), (at, page, false)], 4),
        // Nothing that the device may write is no report of anything.
        (vec![(at, page, false)], 4),
    ] {
        assert_eq!(fixture.send(REPORTING, &chain), 0);
        assert_eq!(fixture.counted(), (0, errors), "{chain:?}");
    }
    assert!(!fixture.is_zero(at, PAGE));
}

#[test]
fn a_report_larger_than_one_look_is_done_in_several() {
    let mut fixture = Fixture::new();
    // All of memory behind the rings, again and again.
    let all = (HEAP, (MEMORY - HEAP) as u32, true);
    let chain = vec![all; 32];
    assert!((MEMORY - HEAP) as usize * chain.len() > 6 * REPORTED_AT_ONCE);
    fixture.driver.add(REPORTING, &chain);
    fixture.driver.kick(REPORTING);
    fixture.driver.pump_once();
    assert_eq!(fixture.driver.used(REPORTING), []);
    assert_eq!(fixture.counted(), ((REPORTED_AT_ONCE / PAGE) as u64, 0));
    fixture.driver.settle();
    assert_eq!(fixture.driver.used(REPORTING), [(0, 0)]);
    assert_eq!(fixture.counted(), (32 * (MEMORY - HEAP) / PAGE as u64, 0));
    // What was left of it does not touch the next one.
    fixture.send(REPORTING, &[(HEAP, PAGE as u32, true)]);
    assert_eq!(fixture.counted().0, 32 * (MEMORY - HEAP) / PAGE as u64 + 1);
}

#[test]
fn given_pages_go_back_and_can_be_taken_again() {
    let mut fixture = Fixture::new();
    let first = (4 << 20) / PAGE as u32;
    fixture.driver.poke(4 << 20, &pattern(1, 4 * PAGE));
    fixture.inflate(&[first, first + 2, (MEMORY / PAGE as u64) as u32, u32::MAX]);
    assert_eq!(fixture.counted(), (2, 2));
    for index in 0..4 {
        let address = (4 << 20) + index * PAGE as u64;
        assert_eq!(fixture.is_zero(address, PAGE), index % 2 == 0, "page {index}");
    }
    let numbers = fixture.driver.put(&first.to_le_bytes());
    assert_eq!(fixture.send(DEFLATE, &[(numbers, 4, false)]), 0);
    assert_eq!(fixture.counted(), (2, 2));
    // Half a number names no page.
    assert_eq!(fixture.send(INFLATE, &[(numbers, 3, false)]), 0);
    assert_eq!(fixture.counted(), (2, 3));
}

#[test]
fn many_given_pages_are_taken_in_several_looks() {
    let mut fixture = Fixture::new();
    let first = (4 << 20) / PAGE as u32;
    let count = NUMBERS_AT_ONCE as u32;
    let numbers: Vec<u8> = (0..count).flat_map(|i| (first + i % 256).to_le_bytes()).collect();
    let at = fixture.driver.put(&numbers);
    fixture.driver.add(INFLATE, &[(at, 1001, false), (at + 1001, 4 * count - 1001, false)]);
    fixture.driver.kick(INFLATE);
    fixture.driver.pump_once();
    assert_eq!(fixture.counted(), (u64::from(count / 4), 0));
    fixture.driver.settle();
    assert_eq!(fixture.driver.used(INFLATE), [(0, 0)]);
    assert_eq!(fixture.counted(), (u64::from(count), 0));
}

#[test]
fn a_reset_in_the_middle_of_a_report_forgets_it() {
    let mut fixture = Fixture::new();
    let all = (HEAP, (MEMORY - HEAP) as u32, true);
    fixture.driver.add(REPORTING, &[all; 32]);
    fixture.driver.kick(REPORTING);
    fixture.driver.pump_once();
    fixture.driver.restart(0);
    fixture.driver.settle();
    let before = fixture.counted().0;
    fixture.send(REPORTING, &[(4 << 20, 3 * PAGE as u32, true)]);
    assert_eq!(fixture.counted().0, before + 3);
}

#[test]
fn a_report_that_was_begun_is_done_by_the_device_that_goes_on() {
    let all = (HEAP, (MEMORY - HEAP) as u32, true);
    for anew in [false, true] {
        let mut fixture = Fixture::new();
        fixture.driver.add(REPORTING, &[all; 32]);
        fixture.driver.kick(REPORTING);
        fixture.driver.pump_once();
        let state = fixture.driver.transport().save().unwrap();
        fixture.driver.poke(MEMORY - PAGE as u64, &[7; PAGE]);
        fixture.driver.settle();
        assert_eq!(fixture.driver.used(REPORTING), [], "nothing happens to a saved device");
        assert_eq!(fixture.counted().0, (REPORTED_AT_ONCE / PAGE) as u64);
        if anew {
            fixture.driver.restore(Balloon::new(), &state).unwrap();
        } else {
            fixture.driver.transport().resume();
        }
        fixture.driver.settle();
        assert_eq!(fixture.driver.used(REPORTING), [(0, 0)]);
        assert!(fixture.is_zero(MEMORY - PAGE as u64, PAGE));
        assert_eq!(fixture.driver.register(0x60), 1);
    }
}

/// How much of `memory` is a copy that belongs to this process alone, in pages (proc(5), `/proc/self/pagemap`, bits 61 and 63).
fn private_pages(memory: &GuestMemory) -> usize {
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    let region = memory.iter().next().unwrap();
    let mut entries = vec![0; region.size() / PAGE * 8];
    pagemap.read_exact_at(&mut entries, (region.as_ptr() as usize / PAGE * 8) as u64).unwrap();
    let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
    entries.filter(|entry| entry >> 63 == 1 && entry >> 61 & 1 == 0).count()
}

#[test]
fn a_clones_copies_go_back_and_its_template_is_untouched() {
    let mut file = tempfile::tempfile().unwrap();
    let template = pattern(1, 8 * PAGE);
    file.write_all(&template).unwrap();
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    let offset = FileOffset::new(file.try_clone().unwrap(), 0);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let region = MmapRegion::build(Some(offset), template.len(), protection, flags).unwrap();
    let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
    let memory = GuestMemory::from_regions(vec![region]).unwrap();
    memory.write_slice(&[7; 6 * PAGE], GuestAddress(0)).unwrap();
    assert_eq!(private_pages(&memory), 6);
    let counts = BalloonCounts::default();
    give_back(&memory.get_slice(GuestAddress(PAGE as u64), 4 * PAGE).unwrap(), &counts);
    assert_eq!((counts.pages.get(), counts.errors.get(), private_pages(&memory)), (4, 0, 2));
    // The guest uses the pages again: it finds what the template had there, and what it writes is its own.
    let mut seen = vec![0; 8 * PAGE];
    memory.write_slice(&[9; 16], GuestAddress(2 * PAGE as u64)).unwrap();
    memory.read_slice(&mut seen, GuestAddress(0)).unwrap();
    assert_eq!(seen[..PAGE], [7; PAGE]);
    assert_eq!(seen[PAGE..2 * PAGE], template[PAGE..2 * PAGE]);
    assert_eq!(seen[2 * PAGE..2 * PAGE + 16], [9; 16]);
    assert_eq!(seen[2 * PAGE + 16..5 * PAGE], template[2 * PAGE + 16..5 * PAGE]);
    let mut kept = vec![0; 8 * PAGE];
    file.read_exact_at(&mut kept, 0).unwrap();
    assert_eq!(kept, template);
}
