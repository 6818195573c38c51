//! Nothing but what is shared can be reached, and what is read-only stays as it is.

use std::os::unix::{fs::symlink, net::UnixListener};

use super::*;

#[test]
fn names_are_one_component_and_only_entries_are_there() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    fs::write(guest.host("rw/file"), "").unwrap();
    for name in ["", ".", "..", "/", "../ro", "a/b", "/etc"] {
        assert_eq!(guest.lookup(rw, name).unwrap_err(), libc::EINVAL, "{name}");
        assert_eq!(guest.lookup(ROOT, name).unwrap_err(), libc::EINVAL, "{name}");
        assert_eq!(guest.create(rw, name, 0o644, 0).unwrap_err(), libc::EINVAL, "{name}");
    }
    // It is in the directory on the host, and is not shared.
    assert_eq!(guest.lookup(ROOT, "other").unwrap_err(), libc::ENOENT);
    let mut names = guest.list(ROOT, true).unwrap();
    names.sort();
    assert_eq!(names, [".", "..", "ro", "rw"]);
    let file = guest.walk("rw/file").unwrap().node;
    assert_eq!(guest.lookup(file, "x").unwrap_err(), libc::ENOTDIR);
    // Numbers that were not told lead nowhere.
    for node in [0, 50, u64::MAX] {
        assert_eq!(guest.stat(node).unwrap_err(), libc::EBADF);
    }
}

#[test]
fn symbolic_links_are_read_and_never_followed() {
    let mut guest = Guest::new();
    for (name, target) in [("shadow", "/etc/shadow"), ("up", "../other"), ("here", ".")] {
        symlink(target, guest.host("rw").join(name)).unwrap();
        let link = guest.walk(&format!("rw/{name}")).unwrap();
        assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(guest.ask(READLINK, link.node, &[]).unwrap(), target.as_bytes());
        assert_eq!(guest.open(link.node, libc::O_RDONLY).unwrap_err(), libc::ENXIO);
        assert_eq!(guest.lookup(link.node, "x").unwrap_err(), libc::ENOTDIR);
        assert_eq!(guest.ask(OPENDIR, link.node, &[0; 8]), Err(libc::ENXIO));
        // To truncate it is not to truncate its target.
        assert!(guest.ask(SETATTR, link.node, &attributes(8, 0, 0, (0, 0))).is_err());
    }
    let before = fs::metadata("/etc/shadow").unwrap();
    let link = guest.walk("rw/shadow").unwrap().node;
    guest.ask(SETATTR, link, &attributes(6, 0, 0, (7, 7))).unwrap();
    let after = fs::metadata("/etc/shadow").unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&before),
        std::os::unix::fs::MetadataExt::uid(&after)
    );
    assert_eq!(guest.stat(link).unwrap().uid, 7);
}

#[test]
fn special_files_are_made_but_never_opened() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let device = libc::makedev(1, 3) as u32;
    for (name, mode) in
        [("fifo", libc::S_IFIFO), ("socket", libc::S_IFSOCK), ("null", libc::S_IFCHR)]
    {
        let body = [words(&[mode | 0o666, device, 0, 0]), string(name)].concat();
        let node = found(&guest.ask(MKNOD, rw, &body).unwrap());
        assert_eq!(node.mode, mode | 0o666);
        for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC] {
            assert_eq!(guest.open(node.node, flags).unwrap_err(), libc::ENXIO, "{name}");
        }
    }
    let _listener = UnixListener::bind(guest.host("rw/listener")).unwrap();
    let node = guest.walk("rw/listener").unwrap().node;
    assert_eq!(guest.open(node, libc::O_RDWR).unwrap_err(), libc::ENXIO);
    // Neither a directory nor a link can be made that way.
    for mode in [libc::S_IFDIR, libc::S_IFLNK, 0] {
        let body = [words(&[mode, 0, 0, 0]), string("x")].concat();
        assert_eq!(guest.ask(MKNOD, rw, &body), Err(libc::EINVAL));
    }
}

#[test]
fn a_read_only_entry_is_not_changed_in_any_way() {
    let mut guest = Guest::new();
    fs::write(guest.host("ro/file"), "as it was").unwrap();
    fs::create_dir(guest.host("ro/sub")).unwrap();
    let ro = guest.walk("ro").unwrap().node;
    let rw = guest.walk("rw").unwrap().node;
    let file = guest.walk("ro/file").unwrap().node;
    let (other, _) = guest.create(rw, "other", 0o644, 0).unwrap();
    let name = string("file");
    let new = string("new");
    for parent in [ro, guest.walk("ro/sub").unwrap().node, ROOT] {
        for (opcode, body) in [
            (CREATE, [words(&[libc::O_RDWR as u32, 0o644, 0, 0]), new.clone()].concat()),
            (MKDIR, [words(&[0o755, 0]), new.clone()].concat()),
            (MKNOD, [words(&[libc::S_IFREG | 0o644, 0, 0, 0]), new.clone()].concat()),
            (SYMLINK, [new.clone(), string("target")].concat()),
            (UNLINK, name.clone()),
            (LINK, [quads(&[other.node]), new.clone()].concat()),
            (RENAME2, [quads(&[rw]), words(&[0, 0]), name.clone(), new.clone()].concat()),
            (TMPFILE, [words(&[libc::O_RDWR as u32, 0o644, 0, 0]), new.clone()].concat()),
            (SETXATTR, [words(&[1, 0, 0, 0]), string("user.a"), vec![1]].concat()),
            (SETATTR, attributes(1, 0, 0o777, (0, 0))),
        ] {
            assert_eq!(guest.ask(opcode, parent, &body), Err(libc::EROFS), "{opcode}");
        }
    }
    let into = [quads(&[ro]), words(&[0, 0]), string("other"), new.clone()].concat();
    assert_eq!(guest.ask(RENAME2, rw, &into), Err(libc::EROFS));
    let out = [quads(&[file]), new].concat();
    assert_eq!(guest.ask(LINK, rw, &out), Err(libc::EROFS));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(guest.open(file, flags).unwrap_err(), libc::EROFS);
    }
    assert_eq!(guest.ask(SETATTR, file, &attributes(8, 0, 0, (0, 0))), Err(libc::EROFS));
    assert_eq!(guest.ask(REMOVEXATTR, file, &string("user.a")), Err(libc::EROFS));
    let handle = guest.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(guest.write(file, handle, 0, (0, 0), b"x").unwrap_err(), libc::EBADF);
    assert_eq!(guest.read(file, handle, 0, 100).unwrap(), b"as it was");
    assert_eq!(fs::read_dir(guest.host("ro")).unwrap().count(), 2);
}

#[test]
fn handles_belong_to_their_node() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let (one, handle) = guest.create(rw, "one", 0o644, 0).unwrap();
    let (two, _) = guest.create(rw, "two", 0o644, 0).unwrap();
    assert_eq!(guest.read(two.node, handle, 0, 10).unwrap_err(), libc::EBADF);
    let release = [quads(&[handle]), vec![0; 16]].concat();
    assert_eq!(guest.ask(RELEASE, two.node, &release), Err(libc::EBADF));
    guest.ask(RELEASE, one.node, &release).unwrap();
    assert_eq!(guest.read(one.node, handle, 0, 10).unwrap_err(), libc::EBADF);
}
