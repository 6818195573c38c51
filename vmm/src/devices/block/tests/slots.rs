//! Slots: disks without a medium, which a device that goes on from a saved one may fill.

use super::*;
use crate::devices::virtio::{RestoreError, TransportState};

/// A slot, running.
fn slot(read_only: bool) -> Fixture {
    Fixture::new(&[], read_only)
}

impl Fixture {
    fn save(&self) -> TransportState {
        self.driver.transport().save().unwrap()
    }

    /// Another device goes on, with files of these contents.
    fn fill(
        &mut self,
        contents: &[Vec<u8>],
        read_only: bool,
        state: &TransportState,
    ) -> Result<(), RestoreError> {
        self.files = write_files(self.directory.path(), contents);
        let device = Block::open(&disk(&self.files, read_only)).unwrap();
        self.counts = device.counts();
        self.driver.restore(device, state)
    }

    fn sectors(&self) -> u64 {
        u64::from_le_bytes(self.driver.config(0))
    }
}

#[test]
fn a_slot_has_no_sectors_and_answers_every_access_with_an_error() {
    for read_only in [true, false] {
        let mut slot = slot(read_only);
        assert_eq!(slot.sectors(), 0);
        assert_eq!(slot.request(IN, 0, &[], 512).0, IOERR);
        assert_eq!(slot.request(IN, u64::MAX, &[], 4096).0, IOERR);
        assert_eq!(slot.request(OUT, 0, &[1; 512], 0).0, IOERR);
        assert_eq!(slot.request(WRITE_ZEROES, 0, &range(0, 1, 0), 0).0, IOERR);
        assert_eq!(slot.request(DISCARD, 0, &range(0, 1, 0), 0).0, IOERR);
        assert_eq!(slot.request(FLUSH, 0, &[], 0).0, OK);
        assert_eq!(&slot.request(GET_ID, 0, &[], 20).1[..6], b"disk-0");
    }
}

#[test]
fn a_slot_that_is_filled_tells_the_driver_of_its_size() {
    for read_only in [true, false] {
        let mut slot = slot(read_only);
        slot.driver.set_register(0x64, 3);
        let generation = slot.driver.register(0xfc);
        let state = slot.save();
        slot.fill(&[pattern(1, 4096), pattern(2, 1024)], read_only, &state).unwrap();
        assert_eq!(slot.sectors(), 10);
        assert_ne!(slot.driver.register(0xfc), generation);
        assert_eq!(slot.driver.register(0x60), 2, "the configuration changed");
        assert!(slot.driver.interrupt.read().is_ok());
        assert_eq!(slot.request(IN, 8, &[], 1024), (OK, pattern(2, 1024)));
        let written = slot.request(OUT, 9, &[7; 512], 0).0;
        assert_eq!(written, if read_only { IOERR } else { OK });
        assert_eq!(slot.file(1)[512..] == [7; 512], !read_only);
        // Filled once, it is a disk like any other: it stays what it is.
        let state = slot.save();
        let error = slot.fill(&[pattern(1, 512)], read_only, &state).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the block device's number of sectors was 10 when it was saved and is 1 now"
        );
        slot.fill(&[pattern(3, 5120)], read_only, &state).unwrap();
        assert_eq!(slot.driver.register(0x60) & 2, 2, "not acknowledged before");
    }
}

#[test]
fn a_slot_that_stays_empty_says_nothing() {
    let mut slot = slot(true);
    let state = slot.save();
    let generation = slot.driver.register(0xfc);
    slot.fill(&[], true, &state).unwrap();
    assert_eq!((slot.driver.register(0xfc), slot.driver.register(0x60)), (generation, 0));
    assert!(slot.driver.interrupt.read().is_err());
    assert_eq!(slot.request(IN, 0, &[], 512).0, IOERR);
}

#[test]
fn a_medium_that_does_not_fit_is_refused() {
    let mut slot = slot(true);
    let state = slot.save();
    let error = slot.fill(&[pattern(1, 512)], false, &state).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the block device's read-only bit was true when it was saved and is false now"
    );
    let device = Block::open(&api::Disk { id: "other".into(), files: vec![], read_only: true });
    let error = slot.driver.restore(device.unwrap(), &state).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the block device's id was disk-0 when it was saved and is other now"
    );
}

#[test]
fn a_request_that_waits_is_answered_from_the_medium() {
    let mut slot = slot(true);
    let state = slot.save();
    // The driver asks while the machine stands still.
    let driver = &mut slot.driver;
    let (header, data, status) = (driver.put(&[0; 16]), driver.allocate(512), driver.put(&[9]));
    let head = driver.add(0, &[(header, 16, false), (data, 512, true), (status, 1, true)]);
    driver.kick(0);
    driver.settle();
    assert_eq!(driver.used(0), []);
    slot.fill(&[pattern(1, 512)], true, &state).unwrap();
    let driver = &mut slot.driver;
    assert_eq!(driver.wait_used(0, 1), [(head, 513)]);
    assert_eq!((driver.bytes(status, 1)[0], driver.bytes(data, 512)), (OK, pattern(1, 512)));
}
