//! Lower directories that are mounted EROFS files, as containerd's erofs snapshotter has them.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use bulkhead_rootfs::snapshot::{self, Marks};
use rustix::{io::Errno, mount::MountFlags};

use super::{
    Stack, assert_equal, refused,
    support::{
        Fixture,
        disk::{Mounted, can_mount},
    },
};

/// Makes an EROFS file of a directory.
fn pack(directory: &Path, file: &Path, options: &[&str]) {
    let mut make = Command::new("mkfs.erofs");
    let made = make.arg("--quiet").args(options).arg(file).arg(directory).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// Mounts an EROFS file without a loop device, where the kernel can (Linux 6.12).
fn mount(file: &Path) -> Mounted {
    let mounted = Mounted::nothing();
    match rustix::mount::mount(file, mounted.path(), "erofs", MountFlags::RDONLY, None) {
        Err(Errno::NOTBLK) => Mounted::new(file, "erofs", "ro,loop"),
        done => {
            done.unwrap();
            mounted
        }
    }
}

/// Three layers, the upper ones with whiteouts and opaque directories.
fn stack() -> Stack {
    let mut stack = Stack::new();
    stack.push(|root| {
        for (name, size) in [("empty", 0), ("short", 3), ("block", 4096), ("long", 100_001)] {
            fs::create_dir_all(root.join(name).join("below")).unwrap();
            fs::write(root.join(name).join("file"), vec![7; size]).unwrap();
        }
        fs::hard_link(root.join("short/file"), root.join("linked")).unwrap();
        std::os::unix::fs::symlink("short/file", root.join("symbolic")).unwrap();
    });
    stack.push(|root| {
        fs::remove_file(root.join("block/file")).unwrap();
        fs::remove_dir_all(root.join("long")).unwrap();
        fs::create_dir(root.join("long")).unwrap();
        fs::write(root.join("long/new"), "new").unwrap();
    });
    stack.push(|root| fs::write(root.join("short/file"), "changed\n").unwrap());
    stack
}

#[test]
fn a_mounted_files_contents_stay_where_they_are() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    let mut stack = stack();
    let place = tempfile::tempdir().unwrap();
    let mut mounts = Vec::new();
    for (number, lower) in stack.lower.iter_mut().enumerate() {
        let file = place.path().join(format!("{number} layer"));
        pack(lower, &file, &["-Enoinline_data"]);
        let mounted = match number {
            1 => Mounted::new(&file, "erofs", "ro,loop"),
            _ => mount(&file),
        };
        *lower = mounted.path().to_owned();
        mounts.push((file, mounted));
    }
    assert_equal(&stack, &fixture.store);
    let disk = stack.disk(&fixture.store);
    assert_eq!(disk.len(), 5);
    for (blob, (file, _)) in disk[1..].iter().zip(&mounts) {
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(blob), inode(file));
    }

    // Mounted anew elsewhere they are the same layers, and not mounted at all they are still there.
    let made = fs::metadata(&disk[0]).unwrap().ino();
    for (lower, (file, mounted)) in stack.lower.iter_mut().zip(&mut mounts) {
        *mounted = mount(file);
        *lower = mounted.path().to_owned();
    }
    assert_eq!(stack.disk(&fixture.store), disk);
    assert_eq!(fs::metadata(&disk[0]).unwrap().ino(), made);
    let files: Vec<_> = mounts.into_iter().map(|(file, _)| file).collect();
    fixture.store.collect_garbage().unwrap();
    assert!(disk.iter().all(|file| file.exists()));
    // A layer goes with its file, and with another file of that name.
    let layers = || fixture.leftovers().iter().filter(|name| name.starts_with("snapshots")).count();
    fs::remove_file(&files[3]).unwrap();
    fs::copy(&files[0], &files[2]).unwrap();
    fixture.store.collect_garbage().unwrap();
    assert_eq!(layers(), 2);
    files[..3].iter().for_each(|file| fs::remove_file(file).unwrap());
    fixture.store.collect_garbage().unwrap();
    assert_eq!(fixture.leftovers(), [] as [String; 0]);
}

#[test]
fn what_does_not_lie_in_one_piece_is_copied() {
    if !can_mount() {
        return;
    }
    // Ends of files among the metadata; compressed; pieces that files share.
    for options in [&[][..], &["-zlz4"], &["-Enoinline_data", "--chunksize=4096"]] {
        let fixture = Fixture::new();
        let mut stack = stack();
        let base = stack.lower[1].clone();
        let file = stack.dir.path().join("layer");
        pack(&base, &file, options);
        let mounted = mount(&file);
        stack.lower[1] = mounted.path().to_owned();
        assert!(snapshot::is_known(mounted.path()));
        assert_equal(&stack, &fixture.store);
        let disk = stack.disk(&fixture.store);
        assert!(!disk.iter().any(|file| file.is_symlink()), "{options:?}");
    }
}

#[test]
fn what_cannot_be_told_is_not_known() {
    if !can_mount() {
        return;
    }
    let stack = stack();
    let file = stack.dir.path().join("layer");
    // Without an identifier, and one whose file is another by now.
    pack(&stack.lower[1], &file, &["-U", "00000000-0000-0000-0000-000000000000"]);
    let mounted = mount(&file);
    assert!(!snapshot::is_known(mounted.path()));
    refused(mounted.path(), &["birth times"]);
    drop(mounted);
    pack(&stack.lower[1], &file, &[]);
    let mounted = mount(&file);
    assert!(snapshot::is_known(mounted.path()));
    // A part of a mount.
    assert!(!snapshot::is_known(&mounted.path().join("short")));
    let second = stack.dir.path().join("second");
    pack(&stack.lower[1], &second, &[]);
    fs::rename(&second, &file).unwrap();
    assert!(!snapshot::is_known(mounted.path()));
    fs::remove_file(&file).unwrap();
    assert!(!snapshot::is_known(mounted.path()));
    let error = snapshot::disk(&Fixture::new().store, &[mounted.path().into()], Marks::Trusted);
    assert!(error.is_err());
}
