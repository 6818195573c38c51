//! Property tests: whatever a driver writes, in registers, rings, descriptors and buffers, no device panics or goes on for
//! ever, and after a reset each serves an honest driver.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use proptest::{collection::vec, prelude::*, sample::select};
use tempfile::TempDir;

use super::{
    balloon::Balloon,
    block::Block,
    fs, net,
    rng::Rng,
    testing::{Driver, HEAP, MEMORY, pattern},
    virtio::VirtioDevice,
    vsock::Vsock,
};
use crate::api;

/// Where sound chains have their buffers.
const SCRATCH: u64 = HEAP + (1 << 20);

/// One thing that a driver does.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Writes a descriptor of a queue.
    Descriptor { queue: usize, index: u16, descriptor: (u64, u32, u16, u16) },
    /// Puts a head into a queue's available ring.
    Available { queue: usize, head: u16 },
    /// Claims that a queue has so many chains.
    Index { queue: usize, index: u16 },
    /// Writes bytes into memory.
    Poke { address: u64, bytes: Vec<u8> },
    /// Writes a register.
    Register { offset: u64, value: u32 },
    /// Rings a doorbell.
    Kick { queue: usize },
    /// Sends a sound chain of these bytes, in two buffers, and of room for an answer.
    Send { queue: usize, bytes: Vec<u8>, cut: usize, room: u32 },
    /// Resets the device and starts it again.
    Restart,
}

/// Addresses that mean something: buffers, a queue's own areas, the end of memory, and any.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        9 => (0u64..12).prop_map(|slot| HEAP + 128 * slot),
        1 => 0x1_0000u64..0x4_0000,
        1 => (0u64..64).prop_map(|before| MEMORY - before),
        1 => any::<u64>(),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => select(vec![0, 1, 15, 16, 20, 43, 44, 45, 100, 512, 513, 4096]),
        2 => 0u32..70_000,
        1 => any::<u32>(),
    ]
}

fn small_or_any() -> impl Strategy<Value = u16> {
    prop_oneof![99 => 0u16..8, 1 => any::<u16>()]
}

/// A file system's request about nodes and handles that may be there.
fn file_request() -> impl Strategy<Value = Vec<u8>> {
    let small = || prop_oneof![5 => 0u64..6, 1 => any::<u64>()];
    let name = prop_oneof![
        4 => select(vec!["rw", "ro", "file", "sub", "new", "..", "a/b", "user.a"]).prop_map(|name| {
            [name.as_bytes(), &[0]].concat()
        }),
        1 => vec(any::<u8>(), 0..12),
    ];
    let length = prop_oneof![9 => Just(None), 1 => any::<u32>().prop_map(Some)];
    (0u32..54, small(), vec(small(), 0..8), vec(name, 0..3), length).prop_map(
        |(opcode, node, fields, names, length)| {
            let fields: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
            let body = [fields, names.concat()].concat();
            let length = length.unwrap_or(40 + body.len() as u32);
            [
                &length.to_le_bytes()[..],
                &opcode.to_le_bytes(),
                &7u64.to_le_bytes(),
                &node.to_le_bytes(),
                &[0; 16],
                &body,
            ]
            .concat()
        },
    )
}

/// A frame's header that may mean something, and a frame.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![4 => 0u16..100, 1 => any::<u16>()];
    let kind = select(vec![0u8, 0, 0, 1, 4, 0x81, 3, 0x80]);
    let numbers = vec(number(), 5..6);
    (select(vec![0u8, 1, 1, 2, 0xff]), kind, numbers, 0usize..3000).prop_map(
        |(flags, kind, numbers, length)| {
            let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            [&[flags, kind], &numbers[..], &pattern(length as u64, length)].concat()
        },
    )
}

/// What a buffer may begin with: a block request, a vsock packet, a file system's request, a frame, or noise.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let sector = prop_oneof![3 => 0u64..20, 1 => any::<u64>()];
    let request = (select(vec![0u32, 1, 4, 8, 11, 13, 99]), sector, vec(any::<u8>(), 0..64))
        .prop_map(|(kind, sector, rest)| {
            [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), &rest].concat()
        });
    prop_oneof![2 => request, 3 => packet(), 3 => file_request(), 2 => frame(), 1 => vec(any::<u8>(), 0..80)]
}

/// A packet of a guest that knows its own context id, mostly.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let cid = prop_oneof![9 => Just(5u64), 1 => any::<u64>()];
    let number = || prop_oneof![3 => 0u32..200, 1 => any::<u32>()];
    (
        cid,
        (0u32..4, select(vec![7u32, 7, 7, 8, 1 << 30])),
        number(),
        0u16..9,
        0u32..4,
        (number(), number()),
    )
        .prop_map(|(cid, (from, to), len, op, flags, (buf_alloc, fwd_cnt))| {
            let len = if op == 5 { len } else { 0 };
            [
                &cid.to_le_bytes()[..],
                &2u64.to_le_bytes(),
                &from.to_le_bytes(),
                &to.to_le_bytes(),
                &len.to_le_bytes(),
                &1u16.to_le_bytes(),
                &op.to_le_bytes(),
                &flags.to_le_bytes(),
                &buf_alloc.to_le_bytes(),
                &fwd_cnt.to_le_bytes(),
            ]
            .concat()
        })
}

pub(super) fn step(queues: usize) -> impl Strategy<Value = Step> {
    let queue = move || 0..queues;
    let descriptor = (queue(), small_or_any(), address(), length(), 0u16..8, small_or_any());
    let register = prop_oneof![
        select(vec![
            0x14u64, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x90, 0xa0, 0xa4
        ]),
        0u64..0x200,
    ];
    let value = prop_oneof![0u32..20, select(vec![64, 128, 143]), any::<u32>()];
    prop_oneof![
        30 => descriptor.prop_map(|(queue, index, address, length, flags, next)| {
            Step::Descriptor { queue, index: index % 64, descriptor: (address, length, flags, next) }
        }),
        20 => (queue(), small_or_any()).prop_map(|(queue, head)| Step::Available { queue, head }),
        1 => (queue(), any::<u16>()).prop_map(|(queue, index)| Step::Index { queue, index }),
        20 => (address(), bytes()).prop_map(|(address, bytes)| Step::Poke { address, bytes }),
        1 => (register, value).prop_map(|(offset, value)| Step::Register { offset, value }),
        20 => queue().prop_map(|queue| Step::Kick { queue }),
        // Alternately to the first queue, where the network card and the socket device take buffers, and to the second, where they take packets.
        30 => (any::<bool>(), bytes(), 0usize..100, length()).prop_map(move |(first, bytes, cut, room)| {
            if first || queues == 1 {
                let bytes = if queues == 1 { bytes } else { Vec::new() };
                Step::Send { queue: 0, bytes, cut, room: room % 9000 }
            } else {
                Step::Send { queue: 1, bytes, cut, room: 0 }
            }
        }),
        1 => Just(Step::Restart),
    ]
}

pub(super) fn apply(driver: &mut Driver, step: Step) {
    match step {
        Step::Descriptor { queue, index, descriptor } => {
            let table = driver.rings[queue].descriptors;
            driver.write_descriptor(table, index, descriptor);
        }
        Step::Available { queue, head } => driver.make_available(queue, head),
        Step::Index { queue, index } => {
            let at = driver.rings[queue].avail + 2;
            driver.poke(at, &index.to_le_bytes());
        }
        Step::Poke { address, bytes } => {
            let fits = address.checked_add(bytes.len() as u64).is_some_and(|end| end <= MEMORY);
            // The rings' indexes are left to the steps that are for them.
            if fits && address >= HEAP {
                driver.poke(address, &bytes);
            }
        }
        Step::Register { offset, value } => {
            driver.set_register(offset, value);
            driver.register(offset);
        }
        Step::Kick { queue } => driver.kick(queue),
        Step::Send { queue, mut bytes, cut, room } => {
            bytes.extend([0; 200]);
            driver.poke(SCRATCH, &bytes);
            let (cut, end) = (cut as u32, bytes.len() as u32);
            let mut chain =
                vec![(SCRATCH, cut, false), (SCRATCH + u64::from(cut), end - cut, false)];
            if room > 0 {
                chain = if end == 200 { Vec::new() } else { chain };
                chain.push((SCRATCH + 4096, room, true));
            }
            driver.add(queue, &chain);
            driver.kick(queue);
        }
        Step::Restart => driver.restart(0),
    }
    driver.settle();
}

/// Starts `device`, does `steps`, and brings it back to an honest driver.
fn survive<D: VirtioDevice + 'static>(device: D, steps: Vec<Step>) -> Driver {
    let mut driver = Driver::start(device, 0);
    for step in steps {
        apply(&mut driver, step);
    }
    driver.restart(0);
    driver.settle();
    assert_eq!(driver.register(0x70), 15);
    driver
}

/// An honest request: header and data readable, `room` bytes writable.
fn exchange(driver: &mut Driver, queue: usize, readable: &[u8], room: usize) -> Vec<u8> {
    let request = driver.put(readable);
    let answer = driver.allocate(room);
    let mut chain = vec![(request, readable.len() as u32, false)];
    if room > 0 {
        chain.push((answer, room as u32, true));
    }
    driver.add(queue, &chain);
    driver.kick(queue);
    driver.wait_used(queue, 1);
    driver.bytes(answer, room)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn block_survives(steps in vec(step(1), 0..60), read_only: bool) {
        let directory = TempDir::new().unwrap();
        let files = [directory.path().join("a"), directory.path().join("b")];
        for file in &files {
            std::fs::write(file, pattern(1, 4096)).unwrap();
        }
        let disk = api::Disk { id: "disk".into(), files: files.to_vec(), read_only };
        let mut driver = survive(Block::open(&disk).unwrap(), steps);
        let whole = files.map(|file| std::fs::read(file).unwrap()).concat();
        let answer = exchange(&mut driver, 0, &[0; 16], 8193);
        prop_assert_eq!(answer.last(), Some(&0));
        prop_assert_eq!(&answer[..8192], &whole[..]);
        if read_only {
            prop_assert_eq!(whole, pattern(1, 4096).repeat(2));
        }
    }

    #[test]
    fn rng_survives(steps in vec(step(1), 0..60)) {
        let mut driver = survive(Rng::new(), steps);
        prop_assert_ne!(exchange(&mut driver, 0, &[], 64), [0; 64]);
    }

    #[test]
    fn balloon_survives(steps in vec(step(3), 0..80)) {
        let mut driver = survive(Balloon::new(), steps);
        let page = driver.put(&[7; 4096 * 2]).next_multiple_of(4096);
        driver.add(2, &[(page, 4096, true)]);
        driver.kick(2);
        driver.wait_used(2, 1);
        prop_assert_eq!(driver.bytes(page, 4096), [0; 4096]);
        exchange(&mut driver, 0, &((page / 4096) as u32).to_le_bytes(), 0);
    }

    #[test]
    fn fs_survives(steps in vec(step(2), 0..80)) {
        let directory = TempDir::new().unwrap();
        for name in ["rw", "ro", "outside"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("ro/file"), "as it was").unwrap();
        let device = fs::tests::device(directory.path(), 100, api::Cache::Auto);
        let mut driver = survive(device, steps);
        // FUSE_INIT 7.37.
        let request = [56u32, 26, 1, 0, 0, 0, 0, 0, 0, 0, 7, 37, 0, 0].map(u32::to_le_bytes).concat();
        let answer = exchange(&mut driver, 1, &request, 80);
        prop_assert_eq!(&answer[..8], &[80, 0, 0, 0, 0, 0, 0, 0]);
        let kept = std::fs::read(directory.path().join("ro/file")).unwrap();
        prop_assert_eq!(kept, b"as it was");
        prop_assert_eq!(std::fs::read_dir(directory.path().join("ro")).unwrap().count(), 1);
        prop_assert_eq!(std::fs::read_dir(directory.path().join("outside")).unwrap().count(), 0);
        prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn net_survives(steps in vec((step(2), 0u8..12, 0usize..70_000), 0..100)) {
        let (device, host) = net::tests::card(1, 1500);
        let mut driver = Driver::start(device, 0);
        for (step, turn, length) in steps {
            apply(&mut driver, step);
            // The host does something too: it sends, or reads.
            match turn {
                0 => drop(host.send(&pattern(1, length))),
                1..4 => drop(host.send(&pattern(1, length % 1515))),
                4 => while host.receive().is_some() {},
                _ => {}
            }
            driver.settle();
        }
        while host.receive().is_some() {}
        driver.restart(0);
        driver.settle();
        let frame = pattern(2, 60);
        exchange(&mut driver, 1, &[&[0; 12], &frame[..]].concat(), 0);
        prop_assert_eq!(&host.receive().unwrap()[12..], &frame[..]);
    }

    #[test]
    fn vsock_survives(steps in vec((step(3), 0u8..16), 0..120)) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("vsock");
        let listener = UnixListener::bind(directory.path().join("vsock_7")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let device = Vsock::bind(&api::Vsock { cid: 5, path: path.clone() }).unwrap();
        let mut driver = Driver::start(device, 0);
        let mut sockets = Vec::<UnixStream>::new();
        for (step, host) in steps {
            apply(&mut driver, step);
            // The host does something too: it connects, accepts, writes, reads or closes.
            match host {
                0 => {
                    let mut socket = UnixStream::connect(&path).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    let _ = socket.write(b"CONNECT 1\nhello");
                    sockets.push(socket);
                }
                1 | 2 => sockets.extend(listener.accept().ok().map(|(socket, _)| {
                    socket.set_nonblocking(true).unwrap();
                    socket
                })),
                3 | 4 => for socket in &mut sockets {
                    let _ = socket.write(&[7; 10_000]);
                },
                5 | 6 => for socket in &mut sockets {
                    let _ = socket.read(&mut [0; 10_000]);
                },
                7 => drop(sockets.pop()),
                8 => if let Some(socket) = sockets.first() {
                    let _ = socket.shutdown(std::net::Shutdown::Write);
                },
                _ => {}
            }
            driver.settle();
        }
        while listener.accept().is_ok() {}
        driver.restart(0);
        driver.settle();
        // Connections of the host that waited may come first.
        let buffers: Vec<_> = (0..60).map(|_| driver.allocate(128)).collect();
        for buffer in &buffers {
            driver.add(0, &[(*buffer, 128, true)]);
        }
        driver.kick(0);
        let mut request = [0; 44];
        for (at, value) in [(0, 5), (8, 2), (16, 9), (20, 7), (28, 1), (30, 1)] {
            request[at] = value;
        }
        exchange(&mut driver, 1, &request, 0);
        driver.settle();
        let used = driver.used(0).len();
        let operations: Vec<_> = buffers[..used].iter().map(|at| driver.bytes(at + 30, 1)[0]).collect();
        prop_assert!(operations.contains(&2), "a response among {operations:?}");
        prop_assert!(listener.accept().is_ok());
    }
}
