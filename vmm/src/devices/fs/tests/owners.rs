//! Whose a new file is, and what a write by another does to it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn what_a_user_makes_is_that_users() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    // The directory is root's alone: whether the user may is the guest kernel's to say, which knows all of its groups.
    fs::set_permissions(guest.host("rw"), fs::Permissions::from_mode(0o700)).unwrap();
    guest.become_user(1234, 5678);
    let (file, _) = guest.create(rw, "file", 0o4666, 0o022).unwrap();
    assert_eq!((file.uid, file.gid, file.mode & 0o7777), (1234, 5678, 0o4644));
    guest.ask(MKDIR, rw, &[words(&[0o777, 0o077]), string("sub")].concat()).unwrap();
    guest.ask(SYMLINK, rw, &[string("link"), string("nowhere")].concat()).unwrap();
    let flags = (libc::O_RDWR | libc::O_TMPFILE) as u32;
    let body = [words(&[flags, 0o666, 0o002, 0]), string("#1")].concat();
    let unnamed = found(&guest.ask(TMPFILE, rw, &body).unwrap());
    assert_eq!((unnamed.uid, unnamed.mode & 0o7777), (1234, 0o664));
    for name in ["file", "sub", "link"] {
        let is = fs::symlink_metadata(guest.host("rw").join(name)).unwrap();
        assert_eq!((is.uid(), is.gid()), (1234, 5678), "{name}");
    }
    assert_eq!(mode(&guest.host("rw/sub")), 0o700);
    // The next one is another's again.
    guest.become_user(0, 0);
    assert_eq!(guest.create(rw, "roots", 0o600, 0).unwrap().0.uid, 0);
    guest.become_user(u32::MAX, 0);
    assert!(guest.create(rw, "nobodys", 0o600, 0).is_err());
}

#[test]
fn a_set_gid_directory_and_a_default_acl_are_inherited_from() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    chown(guest.host("rw"), None, Some(77)).unwrap();
    fs::set_permissions(guest.host("rw"), fs::Permissions::from_mode(0o2755)).unwrap();
    guest.become_user(1234, 5678);
    assert_eq!(guest.create(rw, "file", 0o644, 0).unwrap().0.gid, 77);
    // A default ACL of user::rwx, group::rwx, other::r-x (acl(5)) comes instead of the umask.
    let entry = |tag: u16, rights: u16| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &u32::MAX.to_le_bytes()].concat()
    };
    let acl = [&2u32.to_le_bytes()[..], &entry(1, 7), &entry(4, 7), &entry(0x20, 5)].concat();
    guest.become_user(0, 0);
    let fields = words(&[acl.len() as u32, 0, 0, 0]);
    let body = [fields, string("system.posix_acl_default"), acl].concat();
    guest.ask(SETXATTR, rw, &body).unwrap();
    let (file, _) = guest.create(rw, "shared", 0o666, 0o077).unwrap();
    assert_eq!(file.mode & 0o777, 0o664);
}

#[test]
fn ownership_and_modes_change_as_asked() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let (file, handle) = guest.create(rw, "file", 0o644, 0).unwrap();
    let path = guest.host("rw/file");
    guest.ask(SETATTR, file.node, &attributes(1, 0, 0o6755, (0, 0))).unwrap();
    assert_eq!(mode(&path), 0o6755);
    guest.ask(SETATTR, file.node, &attributes(2 | 4, 0, 0, (10, 20))).unwrap();
    let is = fs::metadata(&path).unwrap();
    assert_eq!((is.uid(), is.gid(), is.mode() & 0o7777), (10, 20, 0o755));
    guest.ask(SETATTR, file.node, &attributes(4, 0, 0, (99, 30))).unwrap();
    let is = fs::metadata(&path).unwrap();
    assert_eq!((is.uid(), is.gid()), (10, 30));
    guest.ask(SETATTR, file.node, &attributes(8, 5, 0, (0, 0))).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 5);
    let mut times = attributes(16 | 32, 0, 0, (0, 0));
    times[32..40].copy_from_slice(&1000u64.to_le_bytes());
    times[40..48].copy_from_slice(&(-5i64).to_le_bytes());
    times[60..64].copy_from_slice(&7u32.to_le_bytes());
    guest.ask(SETATTR, file.node, &times).unwrap();
    let is = fs::metadata(&path).unwrap();
    assert_eq!((is.atime(), is.mtime(), is.mtime_nsec()), (1000, -5, 7));
    guest.write(file.node, handle, 0, (0, 0), b"x").unwrap();
}

#[test]
fn set_uid_bits_go_when_the_guest_says_that_they_must() {
    let mut guest = Guest::new();
    let rw = guest.walk("rw").unwrap().node;
    let (file, handle) = guest.create(rw, "file", 0o644, 0).unwrap();
    let path = guest.host("rw/file");
    let set = |bits| fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
    set(0o6775);
    guest.write(file.node, handle, 0, (0, 0), b"root's write").unwrap();
    assert_eq!(mode(&path), 0o6775);
    guest.write(file.node, handle, 0, (4, 0), b"another's").unwrap();
    assert_eq!(mode(&path), 0o775);
    set(0o4755);
    guest.ask(SETATTR, file.node, &attributes(8, 3, 0, (0, 0))).unwrap();
    assert_eq!(mode(&path), 0o4755);
    guest.ask(SETATTR, file.node, &attributes(8 | 1 << 11, 3, 0, (0, 0))).unwrap();
    assert_eq!(mode(&path), 0o755);
    set(0o4755);
    let flags = (libc::O_WRONLY | libc::O_TRUNC) as u32;
    guest.ask(OPEN, file.node, &words(&[flags, 1])).unwrap();
    assert_eq!((mode(&path), fs::read(&path).unwrap().len()), (0o755, 0));
    // The capability is back.
    set(0o4755);
    guest.write(file.node, handle, 0, (0, 0), b"x").unwrap();
    assert_eq!(mode(&path), 0o4755);
}
