//! Entries that come while a driver runs the share, and go again.

use std::os::{
    fd::{AsFd, OwnedFd},
    unix::fs::symlink,
};

use super::*;
use crate::{
    api::{Medium, Slot, mount_of},
    devices::media::Change,
};

fn medium(share: &str, name: &str, read_only: bool) -> Medium {
    let sealed = name.starts_with("sealed");
    Medium::Entry { share: share.to_owned(), name: name.to_owned(), read_only, sealed }
}

/// A mount of its own of what is there.
fn tree(path: &Path, read_only: bool) -> OwnedFd {
    mount_of(path, read_only).unwrap()
}

impl Guest {
    fn give(
        &mut self,
        name: &str,
        read_only: bool,
        file: impl Into<OwnedFd>,
    ) -> Result<(), String> {
        let change = Change::Insert(medium("the share", name, read_only), vec![file.into()]);
        self.driver.transport().exchange(change).map_err(|error| error.to_string())
    }

    fn take(&mut self, name: &str) -> Result<(), String> {
        let slot = Slot::Entry { share: "the share".to_owned(), name: name.to_owned() };
        self.driver.transport().exchange(Change::Eject(slot)).map_err(|error| error.to_string())
    }
}

/// As a snapshot of containerd's is, whose layer is beside what a container writes.
#[test]
fn of_a_sealed_entry_only_the_directories_are_found_and_written() {
    let mut guest = Guest::of_entries(&["sealed", "more"], &[("sealed", false)]);
    guest.mount();
    guest.give("sealed-too", false, tree(&guest.host("more"), false)).unwrap();
    for (entry, place) in [("sealed", "sealed"), ("sealed-too", "more")] {
        for name in ["fs", "work"] {
            fs::create_dir(guest.host(place).join(name)).unwrap();
        }
        fs::write(guest.host(place).join("layer"), "the host's").unwrap();
        symlink("fs", guest.host(place).join("link")).unwrap();
        let top = guest.lookup(ROOT, entry).unwrap().node;
        let [upper, work] = ["fs", "work"].map(|name| guest.lookup(top, name).unwrap().node);
        for name in ["layer", "link", "new"] {
            assert_eq!(guest.lookup(top, name).unwrap_err(), libc::ENOENT, "{name}");
        }
        // What is in the directories goes from one to the other.
        let (file, _) = guest.create(work, "file", 0o644, 0).unwrap();
        let body = [words(&[libc::O_RDWR as u32, 0o644, 0, 0]), string("")].concat();
        guest.ask(TMPFILE, work, &body).unwrap();
        let moved = [quads(&[upper]), words(&[0, 0]), string("file"), string("moved")].concat();
        guest.ask(RENAME2, work, &moved).unwrap();
        assert_eq!(guest.lookup(upper, "moved").unwrap().node, file.node);
        let name = string("fs");
        for (opcode, body) in [
            (CREATE, [words(&[libc::O_RDWR as u32, 0o644, 0, 0]), string("layer")].concat()),
            (CREATE, [words(&[libc::O_RDWR as u32, 0o644, 0, 0]), string("new")].concat()),
            (MKDIR, [words(&[0o755, 0]), string("new")].concat()),
            (MKNOD, [words(&[libc::S_IFREG | 0o644, 0, 0, 0]), string("new")].concat()),
            (SYMLINK, [string("new"), string("/")].concat()),
            (LINK, [quads(&[file.node]), string("new")].concat()),
            (UNLINK, string("layer")),
            (RENAME2, [quads(&[upper]), words(&[0, 0]), name.clone(), string("x")].concat()),
            (RENAME2, [quads(&[top]), words(&[0, 0]), name.clone(), string("x")].concat()),
            (SETXATTR, [words(&[1, 0, 0, 0]), string("user.a"), vec![1]].concat()),
            (SETATTR, attributes(1, 0, 0o777, (0, 0))),
        ] {
            assert_eq!(guest.ask(opcode, top, &body), Err(libc::EROFS), "{opcode}");
        }
        let out = [quads(&[top]), words(&[0, 0]), string("moved"), string("layer")].concat();
        assert_eq!(guest.ask(RENAME2, upper, &out), Err(libc::EROFS));
        assert_eq!(fs::read(guest.host(place).join("layer")).unwrap(), b"the host's");
        assert_eq!(fs::read_dir(guest.host(place)).unwrap().count(), 4);
    }
}

#[test]
fn an_entry_comes_and_nothing_of_it_stays() {
    let mut guest = Guest::new();
    let other = guest.host("other");
    fs::create_dir(other.join("deep")).unwrap();
    fs::write(other.join("deep/file"), "before").unwrap();
    assert_eq!(guest.lookup(ROOT, "given").unwrap_err(), libc::ENOENT);
    guest.give("given", false, tree(&other, false)).unwrap();
    let directory = guest.walk("given/deep").unwrap().node;
    let file = guest.lookup(directory, "file").unwrap();
    let handle = guest.open(file.node, libc::O_RDWR).unwrap();
    assert_eq!(guest.write(file.node, handle, 0, (0, 0), b"behind"), Ok(6));
    assert_eq!(fs::read(other.join("deep/file")).unwrap(), b"behind");
    guest.create(directory, "new", 0o644, 0).unwrap();
    guest.ask(SYNCFS, ROOT, &[0; 8]).unwrap();
    // No name leads out of it.
    let given = guest.lookup(ROOT, "given").unwrap().node;
    assert_eq!(guest.lookup(given, "..").unwrap_err(), libc::EINVAL);

    guest.take("given").unwrap();
    assert_eq!(guest.lookup(ROOT, "given").unwrap_err(), libc::ENOENT);
    assert_eq!(guest.stat(file.node).unwrap_err(), libc::EBADF);
    assert_eq!(guest.write(file.node, handle, 0, (0, 0), b"late"), Err(libc::EBADF));
    assert_eq!(guest.lookup(directory, "file").unwrap_err(), libc::EBADF);
    assert_eq!(fs::read(other.join("deep/file")).unwrap(), b"behind");
    // What the guest remembers of it is forgotten in silence, and the share is as it was.
    guest.ask(FORGET, file.node, &quads(&[1])).unwrap();
    assert!(guest.walk("rw").is_ok());
    // Another one of that name is another one.
    guest.give("given", true, tree(&guest.host("rw"), true)).unwrap();
    let again = guest.lookup(ROOT, "given").unwrap().node;
    let made = guest.create(again, "x", 0o644, 0).map(drop);
    assert_eq!(made.unwrap_err(), libc::EROFS);
}

#[test]
fn a_single_file_can_be_an_entry() {
    let mut guest = Guest::new();
    let path = guest.host("other/file");
    fs::write(&path, "contents").unwrap();
    guest.give("file", true, tree(&path, true)).unwrap();
    let file = guest.lookup(ROOT, "file").unwrap();
    let handle = guest.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(file.node, handle, 0, 100).unwrap(), b"contents");
    assert_eq!(guest.open(file.node, libc::O_RDWR).unwrap_err(), libc::EROFS);
}

#[test]
fn what_cannot_be_an_entry_is_refused() {
    let mut guest = Guest::new();
    let other = guest.host("other");
    let plain = fs::File::open(&other).unwrap();
    for (name, read_only, file, word) in [
        ("plain", false, plain.as_fd().try_clone_to_owned().unwrap(), "root of a mount"),
        ("writable", true, tree(&other, false), "read-only"),
        ("null", false, tree(Path::new("/dev/null"), false), "neither a directory"),
        ("a/b", false, tree(&other, false), "file name"),
        ("..", false, tree(&other, false), "file name"),
        ("rw", false, tree(&other, false), "is taken"),
    ] {
        let error = guest.give(name, read_only, file).unwrap_err();
        assert!(error.contains(word) && error.contains("the share"), "{name}: {error}");
    }
    for name in ["rw", "nothing"] {
        assert!(guest.take(name).unwrap_err().contains("no medium"), "{name}");
    }
    let slot = Slot::Entry { share: "another".to_owned(), name: "x".to_owned() };
    assert!(!guest.driver.transport().has_slot(&slot));
    assert!(!guest.driver.transport().has_slot(&Slot::Disk("the share".to_owned())));
    let many = Change::Insert(medium("the share", "two", false), vec![]);
    assert!(guest.driver.transport().exchange(many).is_err());
}

#[test]
fn there_is_an_end_to_them() {
    let mut guest = Guest::new();
    let other = guest.host("other");
    let file = tree(&other, false);
    let mut given = 0;
    let error = loop {
        let clone = file.try_clone().unwrap();
        match guest.give(&given.to_string(), false, clone) {
            Ok(()) => given += 1,
            Err(error) => break error,
        }
    };
    assert!(given == 512 && error.contains("512"), "{given} {error}");
    guest.take("7").unwrap();
    guest.give("again", false, file).unwrap();
}
