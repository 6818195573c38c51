//! A small driver for tests: it talks to a device through its registers and real guest memory, as a guest would.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use event_manager::{EventManager, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::virtio::{MmioTransport, RestoreError, TransportState, VirtioDevice, attach, feature};
use crate::memory::{Bytes, GuestAddress, GuestMemory};

/// Bytes of guest memory.
pub(super) const MEMORY: u64 = 8 << 20;
/// Where buffers begin; the queues are below.
pub(super) const HEAP: u64 = 1 << 20;
/// A descriptor's flags.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
/// How long a test waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// A buffer of a chain: address, length in bytes, and whether the device may write it.
pub(super) type Buffer = (u64, u32, bool);

/// The driver's view of a queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Ring {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
    next_descriptor: u16,
    avail_index: u16,
    used_index: u16,
}

/// A driver of one device.
pub(super) struct Driver {
    pub(super) memory: GuestMemory,
    pub(super) interrupt: EventFd,
    pub(super) rings: Vec<Ring>,
    transport: Arc<Mutex<MmioTransport>>,
    events: EventManager<Subscriber>,
    heap: u64,
}

impl Driver {
    /// Attaches the device; nothing is negotiated yet.
    pub(super) fn attach<D: VirtioDevice + 'static>(device: D) -> Self {
        let sizes = device.queue_sizes();
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let mut events = EventManager::new().unwrap();
        let attached = attach(device, memory.clone(), &mut events).unwrap();
        assert_eq!(attached.doorbells.len(), sizes.len());
        let ring = |(index, size): (u64, &u16)| {
            let base = 0x10000 * (index + 1);
            let (avail, used) = (base + 0x4000, base + 0x6000);
            Ring { size: *size, descriptors: base, avail, used, ..Ring::default() }
        };
        Self {
            memory,
            interrupt: attached.interrupt,
            rings: (0..).zip(sizes).map(ring).collect(),
            transport: attached.transport,
            events,
            heap: HEAP,
        }
    }

    /// Attaches `device` to the same memory and lets it go on where another was saved. The driver does not notice.
    pub(super) fn restore<D: VirtioDevice + 'static>(
        &mut self,
        device: D,
        state: &TransportState,
    ) -> Result<(), RestoreError> {
        let mut events = EventManager::new().unwrap();
        let attached = attach(device, self.memory.clone(), &mut events).unwrap();
        let restored = attached.transport.lock().unwrap().restore(state);
        (self.transport, self.interrupt) = (attached.transport, attached.interrupt);
        self.events = events;
        restored
    }

    /// Attaches the device and brings it to `DRIVER_OK` with all features that it offers but `without`.
    pub(super) fn start<D: VirtioDevice + 'static>(device: D, without: u64) -> Self {
        let mut driver = Self::attach(device);
        driver.initialize(without);
        assert_eq!(driver.register(0x70), 15);
        driver
    }

    /// The steps of virtio 1.3, 3.1.1.
    pub(super) fn initialize(&mut self, without: u64) {
        for status in [0, 1, 3] {
            self.set_register(0x70, status);
        }
        let offered = self.offered();
        self.accept(offered & !without | feature::VERSION_1);
        self.set_register(0x70, 11);
        for index in 0..self.rings.len() {
            self.set_up_queue(index);
        }
        self.set_register(0x70, 15);
    }

    pub(super) fn offered(&mut self) -> u64 {
        self.set_register(0x14, 1);
        let high = u64::from(self.register(0x10));
        self.set_register(0x14, 0);
        high << 32 | u64::from(self.register(0x10))
    }

    pub(super) fn accept(&mut self, features: u64) {
        for half in 0..2 {
            self.set_register(0x24, half);
            self.set_register(0x20, (features >> (32 * half) & 0xffff_ffff) as u32);
        }
    }

    pub(super) fn set_up_queue(&mut self, index: usize) {
        let ring = self.rings[index].clone();
        self.set_register(0x30, index as u32);
        assert_eq!(self.register(0x34), u32::from(ring.size));
        self.set_register(0x38, u32::from(ring.size));
        for (register, address) in [(0x80, ring.descriptors), (0x90, ring.avail), (0xa0, ring.used)]
        {
            self.set_register(register, address as u32);
            self.set_register(register + 4, (address >> 32) as u32);
        }
        self.set_register(0x44, 1);
    }

    pub(super) fn transport(&self) -> MutexGuard<'_, MmioTransport> {
        self.transport.lock().unwrap()
    }

    pub(super) fn register(&self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.transport().read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn set_register(&self, offset: u64, value: u32) {
        self.transport().write(offset, &value.to_le_bytes());
    }

    pub(super) fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        self.transport().read(0x100 + offset, &mut data);
        data
    }

    /// Takes memory for a buffer; `heap_reset` gives it back.
    pub(super) fn allocate(&mut self, length: usize) -> u64 {
        let address = self.heap;
        self.heap = (self.heap + length as u64).next_multiple_of(16);
        assert!(self.heap <= MEMORY, "the test's memory is used up");
        address
    }

    /// A buffer with these bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len());
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        address
    }

    pub(super) fn heap_reset(&mut self, heap: u64) {
        self.heap = heap;
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Writes `bytes` at `address`.
    pub(super) fn poke(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Resets the device and initializes it again, with empty rings.
    pub(super) fn restart(&mut self, without: u64) {
        self.set_register(0x70, 0);
        self.empty_rings();
        self.initialize(without);
    }

    /// Forgets every chain.
    pub(super) fn empty_rings(&mut self) {
        for index in 0..self.rings.len() {
            let ring = &mut self.rings[index];
            (ring.next_descriptor, ring.avail_index, ring.used_index) = (0, 0, 0);
            let (avail, used) = (ring.avail, ring.used);
            self.poke(avail, &[0; 4]);
            self.poke(used, &[0; 4]);
        }
    }

    /// Asks for an interrupt when the next chain of any queue is given back.
    pub(super) fn want_interrupts(&self) {
        for ring in &self.rings {
            let used_event = ring.avail + 4 + 2 * u64::from(ring.size);
            self.poke(used_event, &ring.used_index.to_le_bytes());
        }
    }

    pub(super) fn write_descriptor(
        &self,
        table: u64,
        index: u16,
        (address, length, flags, next): (u64, u32, u16, u16),
    ) {
        let at = GuestAddress(table + 16 * u64::from(index));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Makes a chain available and returns its head.
    pub(super) fn add(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let ring = self.rings[queue].clone();
        let place = |offset: usize| (ring.next_descriptor + offset as u16) % ring.size;
        for (offset, &(address, length, writable)) in buffers.iter().enumerate() {
            let next = if offset + 1 < buffers.len() { NEXT } else { 0 };
            let flags = next | if writable { WRITE } else { 0 };
            self.write_descriptor(
                ring.descriptors,
                place(offset),
                (address, length, flags, place(offset + 1)),
            );
        }
        self.rings[queue].next_descriptor = place(buffers.len());
        self.make_available(queue, place(0));
        place(0)
    }

    /// Makes the chain at `head` available.
    pub(super) fn make_available(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let entry = ring.avail + 4 + 2 * u64::from(ring.avail_index % ring.size);
        ring.avail_index = ring.avail_index.wrapping_add(1);
        let (index, at) = (ring.avail_index, ring.avail + 2);
        self.memory.write_obj(head.to_le(), GuestAddress(entry)).unwrap();
        self.memory
            .store(index.to_le(), GuestAddress(at), std::sync::atomic::Ordering::Release)
            .unwrap();
    }

    /// Rings the doorbell.
    pub(super) fn kick(&self, queue: usize) {
        self.set_register(0x50, queue as u32);
    }

    /// Lets the event loop run until nothing is left to do.
    pub(super) fn pump(&mut self) {
        while self.events.run_with_timeout(0).unwrap() > 0 {}
    }

    /// Lets the event loop run until nothing is left to do, which must be soon.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.events.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the device never rests");
    }

    /// Lets the event loop wait a moment for something to do, and do it.
    pub(super) fn pump_once(&mut self) {
        self.events.run_with_timeout(10).unwrap();
    }

    /// The chains that the device gave back since the last call: head and bytes written.
    pub(super) fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self
            .memory
            .load(GuestAddress(ring.used + 2), std::sync::atomic::Ordering::Acquire)
            .unwrap();
        let mut used = Vec::new();
        while ring.used_index != u16::from_le(index) {
            let at = ring.used + 4 + 8 * u64::from(ring.used_index % ring.size);
            let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
            let written: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
            used.push((u16::try_from(head).unwrap(), written));
            ring.used_index = ring.used_index.wrapping_add(1);
        }
        used
    }

    /// Waits until the device gave back `count` chains.
    pub(super) fn wait_used(&mut self, queue: usize, count: usize) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        self.until("chains to be used", |driver| {
            used.extend(driver.used(queue));
            used.len() >= count
        });
        used
    }

    /// Lets everything run until `done`.
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            self.events.run_with_timeout(1).unwrap();
        }
    }
}

/// Bytes that differ from place to place.
pub(super) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
