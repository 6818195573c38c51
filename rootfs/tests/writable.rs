//! Writable layers: made, checked with e2fsck, mounted, written, and still sparse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    thread,
};

use bulkhead_rootfs::writable::{self, WritableError};
use support::{
    Fixture,
    disk::{Mounted, can_mount},
};

fn fsck(path: &Path) {
    let output = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(path)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "e2fsck: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_writable_layer_is_empty_sparse_and_sound() {
    let fixture = Fixture::new();
    for size in [16 << 20, 1 << 30, 20 << 30] {
        let path = fixture.dir.path().join(format!("layer-{size}"));
        writable::create(&fixture.store, &path, size).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (size, 0o600));
        // Two bitmaps for each group of 128 MiB, and little else.
        let allowed = (1 << 20) + size / (128 << 20) * 12_288;
        assert!(
            metadata.blocks() * 512 < allowed,
            "{size}: {} bytes on disk",
            metadata.blocks() * 512
        );
        fsck(&path);
    }
}

#[test]
fn what_is_written_stays_with_one_container() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let (one, two) = (fixture.dir.path().join("one"), fixture.dir.path().join("two"));
    writable::create(&fixture.store, &one, 64 << 20).unwrap();
    {
        let mounted = Mounted::new(&one, "ext4", "loop");
        for name in ["upper", "work"] {
            let metadata = fs::metadata(mounted.path().join(name)).unwrap();
            assert_eq!(
                (metadata.is_dir(), metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
                (true, 0, 0, 0o755)
            );
        }
        fs::write(mounted.path().join("upper/file"), vec![1; 1 << 20]).unwrap();
    }
    fsck(&one);
    writable::create(&fixture.store, &two, 64 << 20).unwrap();
    let mounted = Mounted::new(&two, "ext4", "loop");
    let mut names: Vec<_> =
        fs::read_dir(mounted.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["lost+found", "upper", "work"]);
    assert_eq!(fs::read_dir(mounted.path().join("upper")).unwrap().count(), 0);
}

#[test]
fn odd_sizes_and_existing_files_are_refused() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("layer");
    for size in [0, 4096, (16 << 20) + 1, u64::MAX] {
        assert!(
            matches!(writable::create(&fixture.store, &path, size), Err(WritableError::Size(s)) if s == size)
        );
        assert!(!path.exists());
    }
    fs::write(&path, "mine").unwrap();
    assert!(matches!(
        writable::create(&fixture.store, &path, 16 << 20),
        Err(WritableError::Write { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn many_at_once_share_one_template() {
    let fixture = Fixture::new();
    thread::scope(|scope| {
        for i in 0..8 {
            let path = fixture.dir.path().join(format!("layer-{i}"));
            let store = &fixture.store;
            scope.spawn(move || writable::create(store, &path, 32 << 20).unwrap());
        }
    });
    assert_eq!(fs::read_dir(fixture.dir.path().join("store/writable")).unwrap().count(), 1);
    fsck(&fixture.dir.path().join("layer-7"));
}
