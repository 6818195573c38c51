//! Files that come and go on both sides, and what is in them.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_write_on_either_side_is_seen_on_the_other() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let (file, handle) = guest.create(rw, "file", 0o640, 0).unwrap();
    let long: Vec<u8> = (0..60_000u32).map(|n| n as u8).collect();
    assert_eq!(guest.write(file.node, handle, 3, (0, 0), &long).unwrap(), 60_000);
    let path = guest.host("rw/file");
    assert_eq!(fs::read(&path).unwrap(), [&[0; 3][..], &long].concat());
    assert_eq!(guest.read(file.node, handle, 50_000, 65_536).unwrap(), &long[49_997..]);
    fs::write(&path, "from the host").unwrap();
    assert_eq!(guest.read(file.node, handle, 5, 100).unwrap(), b"the host");
    assert_eq!(guest.read(file.node, handle, 99, 100).unwrap(), b"");
    let (seen, is) = (guest.stat(file.node).unwrap(), fs::metadata(&path).unwrap());
    assert_eq!((seen.number, seen.size, seen.mode), (is.ino(), is.size(), is.mode()));
    assert_eq!(u64::from(seen.links), is.nlink());
    // Appended, whatever offset the guest thinks of; but not what comes from its cache.
    assert_eq!(guest.write(file.node, handle, 0, (0, libc::O_APPEND), b"!").unwrap(), 1);
    assert_eq!(guest.write(file.node, handle, 0, (1, libc::O_APPEND), b"F").unwrap(), 1);
    assert_eq!(fs::read(&path).unwrap(), b"From the host!");
    fs::remove_file(&path).unwrap();
    assert_eq!(guest.walk("rw/file").unwrap_err(), libc::ENOENT);
}

#[test]
fn renaming_with_and_without_replacing() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let (a, _) = guest.create(rw, "a", 0o644, 0).unwrap();
    let (b, _) = guest.create(rw, "b", 0o644, 0).unwrap();
    let rename = |guest: &mut Guest, from: &str, to: &str, flags: u32| {
        let body = [quads(&[rw]), words(&[flags, 0]), string(from), string(to)].concat();
        guest.ask(RENAME2, rw, &body).map(|_| ())
    };
    assert_eq!(rename(&mut guest, "a", "b", libc::RENAME_NOREPLACE), Err(libc::EEXIST));
    rename(&mut guest, "a", "b", libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(guest.walk("rw/a").unwrap().node, b.node);
    assert_eq!(guest.walk("rw/b").unwrap().node, a.node);
    rename(&mut guest, "a", "b", 0).unwrap();
    assert_eq!(guest.walk("rw/a").unwrap_err(), libc::ENOENT);
    assert_eq!(guest.walk("rw/b").unwrap().node, b.node);
    // What was replaced has lost its name and is still there for who has it.
    assert_eq!(guest.stat(a.node).unwrap().links, 0);
    assert_eq!(rename(&mut guest, "b", "c", 1 << 7), Err(libc::EINVAL));
}

#[test]
fn hard_links_are_one_file_and_unnamed_files_get_names() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let (a, _) = guest.create(rw, "a", 0o644, 0).unwrap();
    let linked = guest.ask(LINK, rw, &[quads(&[a.node]), string("b")].concat()).unwrap();
    assert_eq!((found(&linked).node, found(&linked).links), (a.node, 2));
    let is = fs::metadata(guest.host("rw/b")).unwrap();
    assert_eq!((is.ino(), is.nlink()), (a.number, 2));

    let flags = (libc::O_RDWR | libc::O_TMPFILE) as u32;
    let body = [words(&[flags, 0o600, 0, 0]), string("#1")].concat();
    let answer = guest.ask(TMPFILE, rw, &body).unwrap();
    let (file, handle) = (found(&answer), quad(&answer, 128));
    assert_eq!(file.links, 0);
    guest.write(file.node, handle, 0, (0, 0), b"nameless").unwrap();
    let before = fs::read_dir(guest.host("rw")).unwrap().count();
    guest.ask(LINK, rw, &[quads(&[file.node]), string("named")].concat()).unwrap();
    assert_eq!(fs::read(guest.host("rw/named")).unwrap(), b"nameless");
    assert_eq!(fs::read_dir(guest.host("rw")).unwrap().count(), before + 1);
}

#[test]
fn large_directories_are_read_whole_in_both_ways() {
    let mut guest = Guest::new();
    for number in 0..3000 {
        fs::write(guest.host("rw").join(format!("file number {number}")), "").unwrap();
    }
    let rw = guest.walk("rw").unwrap().node;
    for plus in [false, true] {
        let mut names = guest.list(rw, plus).unwrap();
        assert_eq!(names.len(), 3002);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 3002, "{plus}");
    }
    assert_eq!(guest.counts.errors.get(), 0);
}

#[test]
fn extended_attributes_are_the_hosts() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let (file, _) = guest.create(rw, "file", 0o644, 0).unwrap();
    let set = |value: &[u8], flags: u32| {
        let fields = words(&[value.len() as u32, flags, 0, 0]);
        [fields, string("user.colour"), value.to_vec()].concat()
    };
    guest.ask(SETXATTR, file.node, &set(b"red", 0)).unwrap();
    let exists = guest.ask(SETXATTR, file.node, &set(b"blue", libc::XATTR_CREATE as u32));
    assert_eq!(exists, Err(libc::EEXIST));
    let mut value = [0; 8];
    let path = guest.host("rw/file");
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value[..]).unwrap(), 3);
    let get = |size: u32| [words(&[size, 0]), string("user.colour")].concat();
    assert_eq!(guest.ask(GETXATTR, file.node, &get(0)).unwrap(), words(&[3, 0]));
    assert_eq!(guest.ask(GETXATTR, file.node, &get(64)).unwrap(), b"red");
    assert_eq!(guest.ask(GETXATTR, file.node, &get(2)), Err(libc::ERANGE));
    let list = guest.ask(LISTXATTR, file.node, &words(&[4096, 0])).unwrap();
    assert_eq!(list, b"user.colour\0");
    guest.ask(REMOVEXATTR, file.node, &string("user.colour")).unwrap();
    assert_eq!(guest.ask(GETXATTR, file.node, &get(64)), Err(libc::ENODATA));
}

#[test]
fn room_is_allocated_and_holes_and_copies_are_found() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let (file, handle) = guest.create(rw, "file", 0o644, 0).unwrap();
    let allocate =
        |offset, length, mode| [quads(&[handle, offset, length]), words(&[mode, 0])].concat();
    guest.ask(FALLOCATE, file.node, &allocate(0, 1 << 20, 0)).unwrap();
    assert_eq!(guest.stat(file.node).unwrap().size, 1 << 20);
    let punch = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
    guest.ask(FALLOCATE, file.node, &allocate(0, 1 << 20, punch)).unwrap();
    guest.write(file.node, handle, 512 << 10, (0, 0), b"island").unwrap();
    let seek = |whence: i32| [quads(&[handle, 0]), words(&[whence as u32, 0])].concat();
    let at = guest.ask(LSEEK, file.node, &seek(libc::SEEK_DATA)).unwrap();
    assert_eq!(quad(&at, 0), 512 << 10);
    assert_eq!(quad(&guest.ask(LSEEK, file.node, &seek(libc::SEEK_HOLE)).unwrap(), 0), 0);
    let (copy, to) = guest.create(rw, "copy", 0o644, 0).unwrap();
    let body = quads(&[handle, 512 << 10, copy.node, to, 2, 6, 0]);
    assert_eq!(guest.ask(COPY_FILE_RANGE, file.node, &body).unwrap(), words(&[6, 0]));
    assert_eq!(fs::read(guest.host("rw/copy")).unwrap(), b"\0\0island");
    let statfs = guest.ask(STATFS, rw, &[]).unwrap();
    assert_eq!(statfs.len(), 80);
    assert!(quad(&statfs, 0) > 0);
    guest.ask(SYNCFS, ROOT, &[0; 8]).unwrap();
}
