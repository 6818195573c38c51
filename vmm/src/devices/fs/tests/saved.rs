//! A share across a save: empty in one machine, with entries in the next.

use super::*;
use crate::devices::virtio::{SaveError, TransportState};

impl Guest {
    fn save(&self) -> TransportState {
        self.driver.transport().save().unwrap()
    }

    fn expect_busy(&self, with: &str) {
        let error = self.driver.transport().save().unwrap_err();
        let SaveError::Busy { device: "file system", why } = &error else { panic!("{error}") };
        assert!(why.contains(with), "{why}");
    }
}

#[test]
fn an_empty_share_that_is_mounted_gets_entries() {
    let mut guest = Guest::empty();
    guest.mount();
    assert_eq!(guest.lookup(ROOT, "rw").unwrap_err(), libc::ENOENT);
    assert_eq!(guest.list(ROOT, true).unwrap(), [".", ".."]);
    let root = guest.stat(ROOT).unwrap();
    let state = guest.save();
    let device = device(guest.directory.path(), FILES, Cache::None);
    guest.counts = device.counts();
    guest.driver.restore(device, &state).unwrap();
    // Without another FUSE_INIT.
    assert_eq!(guest.stat(ROOT).unwrap().number, root.number);
    let mut names = guest.list(ROOT, true).unwrap();
    names.sort();
    assert_eq!(names, [".", "..", "ro", "rw"]);
    let directory = guest.walk("rw").unwrap().node;
    let (file, handle) = guest.create(directory, "new", 0o644, 0).unwrap();
    assert_eq!(guest.write(file.node, handle, 0, (0, 0), b"contents"), Ok(8));
    assert_eq!(fs::read(guest.host("rw/new")).unwrap(), b"contents");
    assert_eq!(guest.counts.errors.get(), 0);
}

#[test]
fn a_guest_that_knows_files_keeps_the_share_busy() {
    let mut guest = Guest::new();
    let directory = guest.lookup(ROOT, "rw").unwrap().node;
    guest.expect_busy("the guest remembers 1 files of a share and has 0 open");
    let (file, handle) = guest.create(directory, "new", 0o644, 0).unwrap();
    guest.expect_busy("the guest remembers 2 files of a share and has 1 open");
    for node in [directory, file.node] {
        guest.ask(FORGET, node, &quads(&[1])).unwrap();
    }
    guest.expect_busy("the guest remembers 0 files of a share and has 1 open");
    // It goes on all the same.
    let release = [quads(&[handle]), vec![0; 16]].concat();
    guest.ask(RELEASE, file.node, &release).unwrap();
    guest.save();
}

#[test]
fn what_was_taken_is_answered_and_the_rest_waits() {
    const REQUESTS: usize = 60;
    let mut guest = Guest::new();
    let request = [guest.header(GETATTR, ROOT, 56), vec![0; 16]].concat();
    let from = guest.driver.put(&request);
    let answers: Vec<_> = (0..REQUESTS).map(|_| guest.driver.allocate(200)).collect();
    for answer in &answers {
        guest.driver.add(QUEUE, &[(from, 56, false), (*answer, 200, true)]);
    }
    guest.driver.kick(QUEUE);
    let state = guest.save();
    let answered = guest.driver.used(QUEUE).len();
    // FUSE_INIT was the first.
    assert_eq!(usize::from(state.queues[QUEUE].next), 1 + answered);
    let device = guest.another();
    guest.driver.restore(device, &state).unwrap();
    if answered < REQUESTS {
        guest.driver.wait_used(QUEUE, REQUESTS - answered);
    }
    for answer in answers {
        assert_eq!(guest.driver.bytes(answer, 8), words(&[120, 0]));
    }
}

#[test]
fn another_share_is_refused() {
    let mut guest = Guest::new();
    let state = guest.save();
    let share = Share { tag: "another".to_owned(), cache: Cache::Auto, entries: Vec::new() };
    let root = fs::File::open(guest.directory.path()).unwrap();
    let reopen = Arc::new(Reopen::open().unwrap());
    let device = Fs::new(&share, root.into(), reopen, FILES).unwrap();
    let error = guest.driver.restore(device, &state).unwrap_err();
    let expected =
        "the file system device's tag was the share when it was saved and is another now";
    assert_eq!(error.to_string(), expected);
}
