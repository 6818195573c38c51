//! What can go wrong while a machine is saved.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use bulkhead_vmm::api::{FromVmm, RequestKind, SnapshotFiles};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::{
    forged::refusal,
    guest::{Guest, kvm, until_end},
    snapshot::{ask, config, console, counter, counts, files},
};

#[test]
fn files_that_are_there_already_are_not_written_over() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(counter());
    let mut config = config(&guest, "console");
    config.snapshot = Some(files(&guest));
    fs::write(guest.path("memory"), "precious").unwrap();
    let why = refusal(&guest, &config);
    assert!(why.contains("memory") && why.contains("exists"), "{why}");
    assert_eq!(fs::read(guest.path("memory")).unwrap(), b"precious");
    assert!(!guest.path("state").exists(), "none is left behind");
}

#[test]
fn a_machine_that_is_killed_while_it_is_saved_leaves_nothing_to_go_on_from() {
    if !kvm() {
        return;
    }
    let (mut refused, mut whole) = (0, 0);
    // From "not begun" to "done", whatever the machine's speed: the time that a whole one takes is found out first.
    let mut longest = Duration::ZERO;
    for step in 0..12u32 {
        let guest = Guest::new(counter());
        let mut config = config(&guest, "console");
        config.snapshot = Some(files(&guest));
        let (mut vmm, mut messages) = guest.start(&config);
        console(&guest.path("console"), 10);
        let begin = Instant::now();
        vmm.request(RequestKind::Snapshot).unwrap();
        if step == 0 {
            while !matches!(messages.next_message().unwrap(), FromVmm::Response { .. }) {}
            longest = begin.elapsed();
        } else {
            thread::sleep(longest * step / 10);
        }
        // Kills it.
        drop(vmm);
        config = crate::snapshot::config(&guest, "clone");
        config.restore = Some(files(&guest));
        let (mut vmm, mut messages) = guest.start(&config);
        match ask(&mut vmm, &mut messages, RequestKind::Counters) {
            Ok(_) => {
                let said = fs::read(guest.path("console")).unwrap();
                let here = console(&guest.path("clone"), 10);
                assert_eq!(here[0], said.last().unwrap().wrapping_add(1));
                whole += 1;
            }
            Err(why) => {
                assert!(why.contains("cannot go on from the saved machine"), "{why}");
                assert!(
                    why.contains("save the machine again") || why.contains("was not saved"),
                    "{why}"
                );
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {whole} whole, the longest {longest:?}");
    assert!(whole > 0, "the first at least");
}

/// A small file system, which goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_told_and_the_machine_goes_on() {
    if !kvm() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root mounts a small file system");
        return;
    }
    let guest = Guest::new(counter());
    let mounted = Mounted(guest.path("small"));
    let small = &mounted.0;
    fs::create_dir(small).unwrap();
    mount("small", small, "tmpfs", MountFlags::empty(), Some(c"size=16k")).unwrap();
    let mut config = config(&guest, "console");
    let files = SnapshotFiles { state: small.join("state"), memory: small.join("memory") };
    config.snapshot = Some(files.clone());
    let (mut vmm, mut messages) = guest.start(&config);
    console(&guest.path("console"), 600);
    for _ in 0..2 {
        let why = ask(&mut vmm, &mut messages, RequestKind::Snapshot).unwrap_err();
        assert!(why.contains("cannot write") && why.contains("No space"), "{why}");
    }
    assert_eq!(fs::metadata(&files.state).unwrap().len(), 0);
    let said = fs::read(guest.path("console")).unwrap().len();
    ask(&mut vmm, &mut messages, RequestKind::Resume).unwrap();
    assert!(counts(&console(&guest.path("console"), said + 600)));
    // Room again: the next try succeeds.
    mount_remount(small, MountFlags::empty(), c"size=64m").unwrap();
    ask(&mut vmm, &mut messages, RequestKind::Snapshot).unwrap();
    ask(&mut vmm, &mut messages, RequestKind::Stop).unwrap();
    until_end(&mut messages);
    let mut config = crate::snapshot::config(&guest, "clone");
    config.restore = Some(files);
    let (_vmm, _messages) = guest.start(&config);
    assert!(counts(&console(&guest.path("clone"), 600)));
}
