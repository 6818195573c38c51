//! Slots: disks without a medium, which a device that goes on from a saved one may fill, or somebody while a driver runs it.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use proptest::prelude::*;

use super::*;
use crate::{
    api::{Medium, Slot},
    devices::{
        media::Change,
        virtio::{RestoreError, TransportState},
    },
};

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

impl Fixture {
    /// Puts files of these contents into the slot.
    fn insert(&mut self, contents: &[Vec<u8>]) -> Result<(), String> {
        self.files = write_files(self.directory.path(), contents);
        // `VIRTIO_BLK_F_RO`.
        let read_only = self.driver.register(0x10) & 1 << 5 != 0;
        let open = |path: &PathBuf| File::options().read(true).write(!read_only).open(path);
        let files = self.files.iter().map(|path| open(path).unwrap().into()).collect();
        self.insert_files(files)
    }

    fn insert_files(&mut self, files: Vec<OwnedFd>) -> Result<(), String> {
        let count = files.len() as u32;
        let medium = Medium::Disk { id: "disk-0".into(), files: count };
        let done = self.driver.transport().exchange(Change::Insert(medium, files));
        done.map_err(|error| error.to_string())
    }

    fn eject(&mut self) -> Result<(), String> {
        let done = self.driver.transport().exchange(Change::Eject(Slot::Disk("disk-0".into())));
        done.map_err(|error| error.to_string())
    }
}

#[test]
fn a_medium_comes_and_goes_while_the_driver_runs() {
    for read_only in [true, false] {
        let mut slot = slot(read_only);
        for round in 0..3_u64 {
            let generation = slot.driver.register(0xfc);
            slot.insert(&[pattern(round, 4096), pattern(round + 1, 1024)]).unwrap();
            assert_eq!(slot.sectors(), 10);
            assert_ne!(slot.driver.register(0xfc), generation);
            assert_eq!(slot.driver.register(0x60) & 2, 2, "the configuration changed");
            slot.driver.set_register(0x64, 3);
            assert_eq!(slot.request(IN, 8, &[], 1024), (OK, pattern(round + 1, 1024)));
            let written = slot.request(OUT, 0, &[7; 512], 0).0;
            assert_eq!(written, if read_only { IOERR } else { OK });
            assert!(slot.insert_files(Vec::new()).unwrap_err().contains("is taken"));
            slot.eject().unwrap();
            assert_eq!((slot.sectors(), slot.driver.register(0x60) & 2), (0, 2));
            slot.driver.set_register(0x64, 3);
            assert_eq!(slot.request(IN, 0, &[], 512).0, IOERR);
            assert_eq!(slot.request(OUT, 0, &[1; 512], 0).0, IOERR);
            assert!(slot.eject().unwrap_err().contains("no medium"));
        }
    }
}

#[test]
fn descriptors_that_are_no_medium_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, [1; 1024]).unwrap();
    let odd = directory.path().join("odd");
    fs::write(&odd, [1; 700]).unwrap();
    let empty = directory.path().join("empty");
    fs::write(&empty, []).unwrap();
    let open = |path: &Path, write: bool, append: bool, flags: i32| -> OwnedFd {
        let mut options = File::options();
        options
            .read(true)
            .write(write)
            .append(append)
            .custom_flags(flags)
            .open(path)
            .unwrap()
            .into()
    };
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let cases: [(bool, OwnedFd, &str); 9] = [
        (true, open(&path, true, false, 0), "not open for reading only"),
        (false, open(&path, false, false, 0), "not open for reading and writing"),
        (false, open(&path, true, true, 0), "not open for reading and writing"),
        (true, open(&path, false, false, libc::O_PATH), "not open for reading only"),
        (true, open(directory.path(), false, false, 0), "neither a regular file"),
        (true, open(Path::new("/dev/zero"), false, false, 0), "neither a regular file"),
        (false, socket.as_fd().try_clone_to_owned().unwrap(), "neither a regular file"),
        (false, open(&odd, true, false, 0), "not a multiple of 512"),
        (true, open(&empty, false, false, 0), "no bytes"),
    ];
    for (read_only, file, word) in cases {
        let mut slot = slot(read_only);
        let error = slot.insert_files(vec![file]).unwrap_err();
        assert!(error.contains(word) && error.contains("disk-0"), "{word}: {error}");
        assert_eq!((slot.sectors(), slot.driver.register(0x60) & 2), (0, 0));
        slot.insert(&[pattern(1, 512)]).unwrap();
    }
    let unknown = Slot::Disk("disk-1".into());
    assert!(!slot(true).driver.transport().has_slot(&unknown));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes and goes: a request sees the medium that is there.
    #[test]
    fn a_slot_is_what_was_put_into_it(steps in prop::collection::vec((0..3_u8, 1..6_usize), 1..24)) {
        let mut slot = slot(false);
        let mut there: Option<Vec<u8>> = None;
        for (number, (what, sectors)) in steps.into_iter().enumerate() {
            match what {
                0 => {
                    let contents = pattern(number as u64, 512 * sectors);
                    // A medium that is not taken leaves what is there alone.
                    let done = if there.is_none() {
                        slot.insert(std::slice::from_ref(&contents))
                    } else {
                        slot.insert_files(Vec::new())
                    };
                    prop_assert_eq!(done.is_ok(), there.is_none());
                    there.get_or_insert(contents);
                }
                1 => prop_assert_eq!(slot.eject().is_ok(), there.take().is_some()),
                _ => {
                    let length = there.as_ref().map_or(0, Vec::len);
                    prop_assert_eq!(slot.sectors() as usize, length / 512);
                    let at = sectors - 1;
                    let (status, bytes) = slot.request(IN, at as u64, &[], 512);
                    match there.as_ref().and_then(|bytes| bytes.get(512 * at..512 * sectors)) {
                        Some(expected) => prop_assert_eq!((status, &bytes[..]), (OK, expected)),
                        None => prop_assert_eq!(status, IOERR),
                    }
                }
            }
        }
    }
}
