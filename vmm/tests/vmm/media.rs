//! Media that come into a running machine's slots and go again, by its owner's requests.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use bulkhead_vmm::api::{
    Cache, Disk, FromVmm, Medium, Messages, RequestKind, Share, Slot, VmConfig, Vmm, mount_of,
};

use crate::guest::{Guest, idle, kvm};

struct Owner {
    vmm: Vmm,
    messages: Messages,
}

impl Owner {
    fn ask(&mut self, kind: RequestKind, files: &[&OwnedFd]) -> Result<(), String> {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let asked = self.vmm.request_with(kind, &files).unwrap();
        loop {
            match self.messages.next_message().unwrap() {
                FromVmm::Response { id, result } => {
                    assert_eq!(id, asked);
                    return result.map(drop);
                }
                FromVmm::Ended(end) => panic!("ended: {end}"),
                FromVmm::Mark { .. } => {}
            }
        }
    }
}

fn slots(guest: &Guest) -> VmConfig {
    let disk = |id: &str, read_only| Disk { id: id.into(), files: Vec::new(), read_only };
    VmConfig {
        disks: vec![disk("image", true), disk("writable", false)],
        shares: vec![Share { tag: "root".into(), cache: Cache::Auto, entries: Vec::new() }],
        exchange: true,
        ..guest.config()
    }
}

#[test]
fn the_owner_gives_media_and_takes_them() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(idle());
    std::fs::write(guest.path("file"), [7; 4096]).unwrap();
    let read: OwnedFd = File::open(guest.path("file")).unwrap().into();
    let write = File::options().read(true).write(true).open(guest.path("file")).unwrap().into();
    let directory = guest.path("").canonicalize().unwrap();
    let tree = mount_of(&directory, false).unwrap();
    let (vmm, messages) = guest.start(&slots(&guest));
    let mut owner = Owner { vmm, messages };
    let disk = |id: &str, files| Medium::Disk { id: id.into(), files };
    let entry = |share: &str, name: &str| Medium::Entry {
        share: share.into(),
        name: name.into(),
        read_only: false,
        sealed: false,
    };
    let all = || vec![disk("image", 2), entry("root", "a"), disk("writable", 1)];
    for (media, files, word) in [
        (vec![disk("none", 1)], vec![&read], "no disk \"none\""),
        (vec![entry("none", "x")], vec![&tree], "no entry \"x\" of share \"none\""),
        (vec![disk("image", 1)], vec![&write], "reading only"),
        (vec![disk("writable", 1)], vec![&read], "reading and writing"),
        (vec![entry("root", "x")], vec![&read], "root of a mount"),
        (vec![disk("image", 2)], vec![&read], "needs 2 descriptors; 1 came"),
        (vec![disk("image", u32::MAX)], vec![&read], "needs 4294967295 descriptors; 1 came"),
        // All or none.
        (all(), vec![&read, &read, &tree, &read], "reading and writing"),
    ] {
        let error = owner.ask(RequestKind::Insert(media), &files).unwrap_err();
        assert!(error.contains(word) && error.lines().count() == 1, "{word}: {error}");
    }
    let everything = [Slot::Disk("image".into()), Slot::Disk("writable".into()), all()[1].slot()];
    for _ in 0..5 {
        owner.ask(RequestKind::Insert(all()), &[&read, &read, &tree, &write]).unwrap();
        let error = owner.ask(RequestKind::Insert(vec![disk("image", 1)]), &[&read]).unwrap_err();
        assert!(error.contains("disk \"image\" is taken"), "{error}");
        owner.ask(RequestKind::Eject(everything.to_vec()), &[]).unwrap();
        let error = owner.ask(RequestKind::Eject(everything.to_vec()), &[]).unwrap_err();
        assert!(error.contains("no medium"), "{error}");
    }
    // What is not asked for goes with nobody.
    owner.ask(RequestKind::Insert(Vec::new()), &[]).unwrap();
}

#[test]
fn a_machine_that_was_not_made_for_it_keeps_its_media() {
    if !kvm() {
        return;
    }
    let guest = Guest::new(idle());
    let (vmm, messages) = guest.start(&VmConfig { exchange: false, ..slots(&guest) });
    let mut owner = Owner { vmm, messages };
    for kind in [RequestKind::Insert(Vec::new()), RequestKind::Eject(Vec::new())] {
        let error = owner.ask(kind, &[]).unwrap_err();
        assert!(error.contains("\"exchange\""), "{error}");
    }
}
