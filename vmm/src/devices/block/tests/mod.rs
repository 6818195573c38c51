//! A disk as a driver sees it: data, status bytes, and what is on the files afterwards.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod slots;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use super::{Block, BlockError};
use crate::{
    api,
    devices::{
        BlockCounts,
        suite::Subject,
        testing::{Driver, INDIRECT, NEXT, WRITE, pattern},
        virtio::feature,
    },
};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// A disk of files with these contents, and its driver.
pub(in crate::devices) struct Fixture {
    directory: TempDir,
    files: Vec<PathBuf>,
    counts: Arc<BlockCounts>,
    driver: Driver,
}

impl Fixture {
    fn new(contents: &[Vec<u8>], read_only: bool) -> Self {
        Self::without(contents, read_only, 0)
    }

    fn without(contents: &[Vec<u8>], read_only: bool, without: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let files = write_files(directory.path(), contents);
        let block = Block::open(&disk(&files, read_only)).unwrap();
        let counts = block.counts();
        let driver = Driver::start(block, without);
        Self { directory, files, counts, driver }
    }

    /// One request; `data` is sent, or `room` bytes are received. Returns the status and what was received.
    fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: usize) -> (u8, Vec<u8>) {
        self.request_while(&mut |_| {}, kind, sector, data, room)
    }

    /// The same; `meanwhile` is called between the request and its answer.
    fn request_while(
        &mut self,
        meanwhile: &mut dyn FnMut(&mut Self),
        kind: u32,
        sector: u64,
        data: &[u8],
        room: usize,
    ) -> (u8, Vec<u8>) {
        let heap = self.driver.allocate(0);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let mut chain = vec![(self.driver.put(&header), 16, false)];
        if !data.is_empty() {
            chain.push((self.driver.put(data), data.len() as u32, false));
        }
        let received = self.driver.allocate(room);
        // In two pieces, of which the first is no whole sector.
        if room > 100 {
            chain.push((received, 100, true));
            chain.push((received + 100, room as u32 - 100, true));
        } else if room > 0 {
            chain.push((received, room as u32, true));
        }
        let status = self.driver.put(&[0xee]);
        chain.push((status, 1, true));
        let head = self.driver.add(0, &chain);
        self.driver.kick(0);
        meanwhile(self);
        let used = self.driver.wait_used(0, 1);
        let status = self.driver.bytes(status, 1)[0];
        let written = if status == OK { room as u32 + 1 } else { 1 };
        assert_eq!(used, [(head, written)]);
        let received = self.driver.bytes(received, room);
        self.driver.heap_reset(heap);
        (status, received)
    }

    fn file(&self, index: usize) -> Vec<u8> {
        fs::read(&self.files[index]).unwrap()
    }
}

impl Subject for Fixture {
    type Device = Block;

    fn start(without: u64) -> Self {
        Self::without(&[pattern(1, 8192), pattern(2, 4096)], false, without)
    }

    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn another(&mut self) -> Block {
        Block::open(&disk(&self.files, false)).unwrap()
    }

    fn drive(&mut self, round: u32, meanwhile: &mut dyn FnMut(&mut Self)) -> Vec<u8> {
        let sector = u64::from(round);
        let data = pattern(sector, 1024);
        let mut seen = Vec::new();
        for (kind, sector, data, room) in [
            (IN, sector, &[][..], 2048),
            (OUT, sector + 1, &data, 0),
            (FLUSH, 0, &[], 0),
            (IN, 0, &[], 12 << 10),
            (IN, 24, &[], 512),
            (GET_ID, 0, &[], 20),
        ] {
            let (status, bytes) = self.request_while(meanwhile, kind, sector, data, room);
            seen.push(status);
            if status == OK {
                seen.extend(bytes);
            }
        }
        seen
    }
}

/// Files with these contents.
fn write_files(directory: &Path, contents: &[Vec<u8>]) -> Vec<PathBuf> {
    let write = |(index, bytes): (usize, &Vec<u8>)| {
        let path = directory.join(format!("part{index}"));
        fs::write(&path, bytes).unwrap();
        path
    };
    contents.iter().enumerate().map(write).collect()
}

fn disk(files: &[PathBuf], read_only: bool) -> api::Disk {
    api::Disk { id: "disk-0".into(), files: files.to_vec(), read_only }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn the_configuration_says_what_the_disk_is() {
    let mut fixture = Fixture::new(&[pattern(1, 4096), pattern(2, 700)], true);
    assert_eq!(u64::from_le_bytes(fixture.driver.config(0)), 10);
    assert_eq!(u32::from_le_bytes(fixture.driver.config(8)), 256 << 10);
    assert_eq!(u32::from_le_bytes(fixture.driver.config(12)), 62);
    assert_eq!(u32::from_le_bytes(fixture.driver.config(20)), 512);
    assert_eq!(fixture.driver.config::<1>(24), [3]);
    assert_eq!(fixture.driver.config::<4>(58), [0; 4]);
    let offered = fixture.driver.offered();
    assert_ne!(offered & (1 << 5), 0, "read-only");
    assert_eq!(offered & (1 << 9 | 1 << 13 | 1 << 14), 0, "nothing that writes");
    let mut writable = Fixture::new(&[vec![0; 512]], false);
    let offered = writable.driver.offered();
    assert_eq!(offered & (1 << 5), 0);
    assert_eq!(offered & (1 << 9 | 1 << 13 | 1 << 14), 1 << 9 | 1 << 13 | 1 << 14);
}

#[test]
fn what_is_written_is_read_and_lands_in_the_file() {
    let mut fixture = Fixture::new(&[vec![0; 64 << 10]], false);
    let data = pattern(3, 8 << 10);
    assert_eq!(fixture.request(OUT, 16, &data, 0).0, OK);
    assert_eq!(fixture.request(FLUSH, 0, &[], 0).0, OK);
    assert_eq!(fixture.request(IN, 16, &[], 8 << 10), (OK, data.clone()));
    assert_eq!(fixture.file(0)[8 << 10..16 << 10], data);
    assert_eq!(fixture.counts.requests.get(), 3);
    assert_eq!(fixture.counts.written.get(), 8 << 10);
    assert_eq!(fixture.counts.read.get(), 8 << 10);
    assert_eq!(fixture.counts.errors.get(), 0);
}

#[test]
fn a_request_spans_files() {
    let parts = [pattern(1, 1024), Vec::new(), pattern(2, 512), pattern(3, 2048)];
    let whole = parts.concat();
    let mut fixture = Fixture::new(&parts, false);
    for (sector, sectors) in [(0, 7), (1, 2), (1, 3), (2, 1), (3, 4), (6, 1)] {
        let (from, length) = (sector * 512, sectors * 512);
        let (status, data) = fixture.request(IN, sector as u64, &[], length);
        assert_eq!((status, &data[..]), (OK, &whole[from..from + length]), "{sectors} at {sector}");
    }
    let data = pattern(9, 4 * 512);
    assert_eq!(fixture.request(OUT, 1, &data, 0).0, OK);
    assert_eq!(fixture.file(0)[512..], data[..512]);
    assert_eq!(fixture.file(2), data[512..1024]);
    assert_eq!(fixture.file(3)[..1024], data[1024..]);
    assert_eq!(fixture.file(0)[..512], whole[..512]);
    assert_eq!(fixture.file(3)[1024..], whole[2560..]);
}

#[test]
fn the_last_file_of_a_read_only_disk_is_padded_with_zeros() {
    let parts = [pattern(1, 512), pattern(2, 700)];
    let mut fixture = Fixture::new(&parts, true);
    let mut whole = parts.concat();
    whole.resize(1536, 0);
    assert_eq!(fixture.request(IN, 0, &[], 1536), (OK, whole.clone()));
    assert_eq!(fixture.request(IN, 2, &[], 512), (OK, whole[1024..].to_vec()));
    assert_eq!(fixture.request(IN, 2, &[], 1024).0, IOERR);
}

#[test]
fn a_read_only_disk_refuses_to_be_changed() {
    let content = pattern(1, 8192);
    let mut fixture = Fixture::new(std::slice::from_ref(&content), true);
    assert_eq!(fixture.request(OUT, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(fixture.request(DISCARD, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(fixture.request(WRITE_ZEROES, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(fixture.request(FLUSH, 0, &[], 0).0, OK);
    assert_eq!(fixture.file(0), content);
    assert_eq!(fixture.counts.errors.get(), 3);
    assert_eq!(fixture.counts.written.get(), 0);
}

#[test]
fn nothing_beyond_the_end_is_touched() {
    let mut fixture = Fixture::new(&[pattern(1, 4096)], false);
    for sector in [8, 7, u64::MAX, u64::MAX - 10, u64::MAX / 512] {
        assert_eq!(fixture.request(IN, sector, &[], 1024).0, IOERR, "{sector}");
        assert_eq!(fixture.request(OUT, sector, &[7; 1024], 0).0, IOERR, "{sector}");
        assert_eq!(fixture.request(DISCARD, 0, &range(sector, 2, 0), 0).0, IOERR, "{sector}");
    }
    assert_eq!(fixture.request(IN, 0, &[], 500).0, IOERR);
    assert_eq!(fixture.file(0), pattern(1, 4096));
}

#[test]
fn discarded_storage_goes_back_to_the_host() {
    let mut fixture = Fixture::new(&[pattern(1, 256 << 10), pattern(2, 256 << 10)], false);
    let before = fs::metadata(&fixture.files[0]).unwrap().blocks();
    assert_eq!(fixture.request(DISCARD, 0, &range(256, 512, 0), 0).0, OK);
    let after = fs::metadata(&fixture.files[0]).unwrap();
    assert!(after.blocks() < before, "{} of {before} blocks", after.blocks());
    assert_eq!(after.len(), 256 << 10);
    assert_eq!(fixture.file(0)[..128 << 10], pattern(1, 256 << 10)[..128 << 10]);
    assert_eq!(fixture.file(1)[128 << 10..], pattern(2, 256 << 10)[128 << 10..]);
}

#[test]
fn zeroed_ranges_read_as_zeros_and_nothing_else_does() {
    for unmap in [0, 1] {
        let mut fixture = Fixture::new(&[pattern(1, 4096), pattern(2, 4096)], false);
        let ranges = [range(1, 2, unmap), range(7, 3, unmap)].concat();
        assert_eq!(fixture.request(WRITE_ZEROES, 0, &ranges, 0).0, OK);
        let mut whole = [pattern(1, 4096), pattern(2, 4096)].concat();
        whole[512..1536].fill(0);
        whole[3584..5120].fill(0);
        assert_eq!([fixture.file(0), fixture.file(1)].concat(), whole);
    }
}

#[test]
fn ranges_are_checked() {
    let mut fixture = Fixture::new(&[pattern(1, 4096)], false);
    assert_eq!(fixture.request(DISCARD, 0, &range(0, 1, 1), 0).0, UNSUPP);
    assert_eq!(fixture.request(WRITE_ZEROES, 0, &range(0, 1, 2), 0).0, UNSUPP);
    assert_eq!(fixture.request(WRITE_ZEROES, 0, &range(0, 0, 0), 0).0, IOERR);
    assert_eq!(fixture.request(WRITE_ZEROES, 0, &range(0, 1, 0)[..15], 0).0, IOERR);
    assert_eq!(fixture.request(DISCARD, 0, &range(0, 1, 0).repeat(17), 0).0, IOERR);
    assert_eq!(fixture.request(DISCARD, 0, &range(0, 1, 0).repeat(16), 0).0, OK);
}

#[test]
fn the_serial_number_is_the_id() {
    let mut fixture = Fixture::new(&[vec![0; 512]], true);
    let mut id = b"disk-0".to_vec();
    id.resize(20, 0);
    assert_eq!(fixture.request(GET_ID, 0, &[], 20), (OK, id));
    assert_eq!(fixture.request(GET_ID, 0, &[], 19).0, IOERR);
    assert_eq!(fixture.request(77, 0, &[], 0).0, UNSUPP);
}

#[test]
fn a_file_that_shrank_is_an_io_error() {
    let mut fixture = Fixture::new(&[pattern(1, 4096)], true);
    fs::OpenOptions::new().write(true).open(&fixture.files[0]).unwrap().set_len(1024).unwrap();
    assert_eq!(fixture.request(IN, 0, &[], 4096).0, IOERR);
    assert_eq!(fixture.request(IN, 1, &[], 512), (OK, pattern(1, 1024)[512..].to_vec()));
}

#[test]
fn a_header_may_come_in_pieces_and_a_chain_in_a_table() {
    let mut fixture = Fixture::new(&[pattern(1, 4096)], true);
    let driver = &mut fixture.driver;
    let mut header = [0; 16];
    header[8] = 2;
    let (header, data, status) = (driver.put(&header), driver.allocate(512), driver.put(&[9]));
    let table = driver.allocate(5 * 16);
    let chain = [(header, 3, 0), (header + 3, 13, 0), (data, 500, WRITE), (data + 500, 12, WRITE)];
    for (index, (address, length, flags)) in (0..).zip(chain) {
        driver.write_descriptor(table, index, (address, length, flags | NEXT, index + 1));
    }
    driver.write_descriptor(table, 4, (status, 1, WRITE, 0));
    driver.write_descriptor(driver.rings[0].descriptors, 5, (table, 5 * 16, INDIRECT, 0));
    driver.make_available(0, 5);
    driver.kick(0);
    assert_eq!(driver.wait_used(0, 1), [(5, 513)]);
    assert_eq!(driver.bytes(status, 1), [OK]);
    assert_eq!(driver.bytes(data, 512), pattern(1, 4096)[1024..1536]);
}

#[test]
fn malformed_chains_are_counted_and_answered_where_they_can_be() {
    let mut fixture = Fixture::new(&[pattern(1, 4096)], false);
    let driver = &mut fixture.driver;
    let header = driver.put(&[0; 16]);
    let data = driver.allocate(1024);
    let status = driver.put(&[9]);
    let far = crate::devices::testing::MEMORY - 8;
    // Chains without a status byte.
    for chain in [
        &[(header, 16, false)][..],
        &[(header, 16, false), (data, 512, false)],
        &[(header, 16, false), (status, 0, true)],
        &[(header, 16, false), (status, 1, true), (far, 512, true)],
        &[(header, 16, false), (status, 1, true), (u64::MAX - 3, 512, true)],
    ] {
        driver.add(0, chain);
        driver.kick(0);
        assert_eq!(driver.wait_used(0, 1)[0].1, 0, "{chain:x?}");
    }
    // Chains with one: no whole header, a buffer outside memory, readable after writable.
    for chain in [
        &[(header, 15, false), (status, 1, true)][..],
        &[(status, 1, true)],
        &[(far, 16, false), (status, 1, true)],
        &[(header, 16, false), (far, 512, true), (status, 1, true)],
        &[(header, 16, false), (u64::MAX - 3, 512, true), (status, 1, true)],
        &[(header, 16, false), (status, 1, true), (data, 512, false)],
    ] {
        driver.poke(status, &[9]);
        driver.add(0, chain);
        driver.kick(0);
        assert_eq!(driver.wait_used(0, 1)[0].1, 1, "{chain:x?}");
        assert_eq!(driver.bytes(status, 1), [IOERR], "{chain:x?}");
    }
    // A loop, a next that is no descriptor, tables that are none.
    let table = driver.rings[0].descriptors;
    for descriptor in [
        (header, 16, NEXT, 0),
        (header, 16, NEXT, 64),
        (header, 16, INDIRECT, 0),
        (header, 7, INDIRECT, 0),
        (header, 0, INDIRECT, 0),
        (u64::MAX - 15, 160, INDIRECT, 0),
        (table, 16, INDIRECT, 0),
    ] {
        driver.write_descriptor(table, 0, descriptor);
        driver.make_available(0, 0);
        driver.kick(0);
        assert_eq!(driver.wait_used(0, 1), [(0, 0)], "{descriptor:x?}");
    }
    assert_eq!(driver.register(0x70), 15, "the device goes on");
    assert_eq!(fixture.counts.errors.get(), 18);
    assert_eq!(fixture.file(0), pattern(1, 4096));
}

#[test]
fn a_ring_that_makes_no_sense_stops_the_device_until_it_is_reset() {
    let mut fixture = Fixture::new(&[pattern(1, 4096)], true);
    let driver = &mut fixture.driver;
    driver.make_available(0, 64);
    driver.kick(0);
    driver.until("NEEDS_RESET", |driver| driver.register(0x70) == 15 | 64);
    assert_ne!(driver.register(0x60) & 2, 0, "a configuration interrupt");
    driver.restart(0);
    assert_eq!(driver.register(0x70), 15);
    assert_eq!(fixture.request(IN, 1, &[], 512), (OK, pattern(1, 4096)[512..1024].to_vec()));
}

#[test]
fn it_works_again_after_a_reset_and_without_event_indexes() {
    let mut fixture = Fixture::without(&[pattern(1, 4096)], true, feature::EVENT_IDX);
    for _ in 0..3 {
        assert_eq!(fixture.request(IN, 0, &[], 512), (OK, pattern(1, 512)));
        assert!(fixture.driver.interrupt.read().is_ok());
        fixture.driver.restart(feature::EVENT_IDX);
    }
}

#[test]
fn a_batch_is_answered_whole() {
    let mut fixture = Fixture::new(&[pattern(1, 64 << 10)], true);
    let driver = &mut fixture.driver;
    let mut expected = Vec::new();
    for sector in 0..20u64 {
        let mut header = [0; 16];
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let (header, data, status) = (driver.put(&header), driver.allocate(512), driver.put(&[9]));
        let head = driver.add(0, &[(header, 16, false), (data, 512, true), (status, 1, true)]);
        expected.push((head, sector as usize, data, status));
    }
    driver.kick(0);
    let used = driver.wait_used(0, 20);
    for ((head, sector, data, status), used) in expected.into_iter().zip(used) {
        assert_eq!(used, (head, 513));
        assert_eq!(driver.bytes(status, 1), [OK]);
        assert_eq!(driver.bytes(data, 512), pattern(1, 64 << 10)[sector * 512..][..512]);
    }
}

#[test]
fn bad_disks_are_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("good"), [0; 512]).unwrap();
    fs::write(path("cut"), [0; 513]).unwrap();
    let open = |files: &[&str], read_only| {
        let files: Vec<_> = files.iter().map(|name| path(name)).collect();
        Block::open(&disk(&files, read_only)).unwrap_err()
    };
    let message = open(&["good", "missing"], true).to_string();
    assert!(message.contains("missing") && message.contains("disk-0"), "{message}");
    assert!(matches!(open(&["."], true), BlockError::NotAFile { .. }));
    assert!(matches!(open(&["."], false), BlockError::Open { .. }));
    assert!(matches!(open(&["cut", "good"], true), BlockError::Unaligned { length: 513, .. }));
    assert!(matches!(open(&["good", "cut"], false), BlockError::Unaligned { length: 513, .. }));
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::RUSR).unwrap();
    assert!(matches!(open(&["fifo"], true), BlockError::NotAFile { .. }));
    for id in ["", "a-name-of-21-letters-", "two words", "naïve", "nul\0"] {
        let disk = api::Disk { id: id.into(), files: vec![path("good")], read_only: true };
        assert!(matches!(Block::open(&disk), Err(BlockError::Id { .. })), "{id:?}");
    }
}
