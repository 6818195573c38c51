//! Images as the kernel's own EROFS driver sees them, entry by entry.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::{collections::BTreeMap, process::Command};

use support::{
    Fixture,
    archive::{Archive, gzip, header, zstd},
    disk::{self, Kind, LoopDevice, Seen, Tree, can_mount, mount},
    layout::Layout,
};
use tar::EntryType;

fn at<'t>(tree: &'t Tree, path: &str) -> &'t Seen {
    tree.get(path.as_bytes()).unwrap_or_else(|| {
        panic!("{path} is missing: {:?}", tree.keys().take(50).collect::<Vec<_>>())
    })
}

fn acl(perm: u16) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, perm, 1000),
        (4, 4, u32::MAX),
        (16, 6, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

#[test]
fn every_kind_of_file_is_seen_as_it_was_archived() {
    if !can_mount() {
        return;
    }
    let long_name = "n".repeat(255);
    let long_link = format!("/{}", "l/".repeat(2047));
    let mut odd = header(EntryType::Regular, 0o4755);
    odd.set_uid(4_000_000_000);
    odd.set_gid(70_000);
    let mut old = header(EntryType::Regular, 0o600);
    old.as_old_mut().mtime = [0xff; 12];
    old.as_old_mut().mtime[11] = 0xfb;
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let many: Vec<(String, Vec<u8>)> =
        (0..20_u8).map(|i| (format!("SCHILY.xattr.user.n{i}"), vec![i; 3000])).collect();
    let many: Vec<(&str, &[u8])> =
        many.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let big: Vec<u8> = (0..5_000_000_u32).flat_map(|i| i.to_le_bytes()).collect();
    let layer = Archive::new()
        .dir("./", 0o751)
        .dir("d", 0o1777)
        .file("d/empty", b"")
        .file("d/one", b"1")
        .file("d/block", &[7; 4096])
        .file("d/block+1", &[8; 4097])
        .file("big", &big)
        .raw(odd, b"setuid", b"x")
        .raw(old, b"before-1970", b"x")
        .symlink("short", "d/one")
        .symlink("long", &long_link[..4095])
        .file(&long_name, b"long")
        .hardlink("d/again", "d/one")
        .device("null", EntryType::Char, 1, 3)
        .device("disk", EntryType::Block, 4095, 1_048_575)
        .device("pipe", EntryType::Fifo, 0, 0)
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"a\nb\0c"),
        ])
        .file("capable", b"#!")
        .pax(&[
            ("SCHILY.xattr.system.posix_acl_access", &acl(7)),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("shared", b"acl")
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &acl(5))])
        .dir("inherit", 0o755)
        .pax(&[("SCHILY.xattr.user.dropped", b"x"), ("SCHILY.xattr.security.kept", &[9; 5000])])
        .symlink("attributes", "many")
        .pax(&many)
        .file("many", b"m")
        .pax(&[("mtime", b"1600000000.123456789"), ("uid", b"3000000"), ("path", "ünï".as_bytes())])
        .file("ignored", b"pax")
        .finish();
    let fixture = Fixture::new();
    let image = fixture.import(&[layer]).unwrap();
    let (_dir, mounted) = mount(&image);
    let tree = mounted.tree();

    assert_eq!((at(&tree, "").mode, at(&tree, "").links), (0o751, 4));
    assert_eq!(
        (at(&tree, "d").mode, at(&tree, "d").links, at(&tree, "d").mtime),
        (0o1777, 2, (1_700_000_000, 0))
    );
    for (path, content) in [
        ("d/empty", &b""[..]),
        ("d/one", b"1"),
        ("d/block", &[7; 4096]),
        ("d/block+1", &[8; 4097]),
        ("big", &big),
    ] {
        assert!(at(&tree, path).kind == Kind::File(content.to_vec()), "{path}");
    }
    let setuid = at(&tree, "setuid");
    assert_eq!((setuid.mode, setuid.uid, setuid.gid), (0o4755, 4_000_000_000, 70_000));
    assert_eq!(at(&tree, "before-1970").mtime, (-5, 0));
    assert_eq!(at(&tree, "short").kind, Kind::Symlink(b"d/one".to_vec()));
    assert_eq!(at(&tree, "long").kind, Kind::Symlink(long_link.as_bytes()[..4095].to_vec()));
    assert_eq!(at(&tree, &long_name).kind, Kind::File(b"long".to_vec()));
    assert_eq!((at(&tree, "d/again").links, at(&tree, "d/one").links), (2, 2));
    assert_eq!(at(&tree, "null").kind, Kind::Char(1, 3));
    assert_eq!(at(&tree, "disk").kind, Kind::Block(4095, 1_048_575));
    assert_eq!(at(&tree, "pipe").kind, Kind::Fifo);
    let expected = BTreeMap::from([
        ("security.capability".into(), capability.to_vec()),
        ("user.note".into(), b"a\nb\0c".to_vec()),
    ]);
    assert_eq!(at(&tree, "capable").xattrs, expected);
    assert_eq!(
        at(&tree, "shared").xattrs,
        BTreeMap::from([("system.posix_acl_access".into(), acl(7))])
    );
    assert_eq!(
        at(&tree, "inherit").xattrs,
        BTreeMap::from([("system.posix_acl_default".into(), acl(5))])
    );
    assert_eq!(
        at(&tree, "attributes").xattrs,
        BTreeMap::from([("security.kept".into(), vec![9; 5000])])
    );
    assert_eq!(at(&tree, "attributes").kind, Kind::Symlink(b"many".to_vec()));
    for (i, (name, value)) in at(&tree, "many").xattrs.iter().enumerate() {
        assert_eq!(*value, vec![name[6..].parse::<u8>().unwrap(); 3000], "{i}");
    }
    assert_eq!(at(&tree, "many").xattrs.len(), 20);
    let pax = at(&tree, "ünï");
    assert_eq!((pax.mtime, pax.uid), ((1_600_000_000, 123_456_789), 3_000_000));
    assert_eq!(tree.len(), 22);

    assert_eq!(image.read_file("/d/../short", 10).unwrap().unwrap(), b"1");
    assert_eq!(image.read_file("d/block+1", 5000).unwrap().unwrap(), [8; 4097]);
    assert_eq!(image.read_file("missing/x", 10).unwrap(), None);
    assert!(image.read_file("d", 10).is_err() && image.read_file("big", 10).is_err());
}

#[test]
fn compressions_give_the_same_disk() {
    let layer =
        Archive::new().file("a", &[1; 10_000]).dir("b", 0o700).symlink("b/c", "../a").finish();
    let mut disks = Vec::new();
    for (compress, suffix) in
        [(<[u8]>::to_vec as fn(&[u8]) -> Vec<u8>, ""), (gzip, "+gzip"), (zstd, "+zstd")]
    {
        let fixture = Fixture::new();
        let dir = fixture.dir.path().join("layout");
        let source =
            Layout::new(std::slice::from_ref(&layer)).compressed(compress, suffix).write(&dir);
        let image = fixture.store.import(&source, None, &()).unwrap();
        assert_eq!(image.names, ["layout:latest"]);
        let disk: Vec<Vec<u8>> =
            image.disk_files().iter().map(|file| std::fs::read(file).unwrap()).collect();
        disks.push(disk);
    }
    assert!(disks.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn layers_are_joined() {
    if !can_mount() {
        return;
    }
    let base = Archive::new()
        .dir("etc", 0o755)
        .file("etc/a", b"base a")
        .file("etc/b", b"base b")
        .dir("old", 0o755)
        .file("old/x", b"x")
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .file("kept", b"kept")
        .finish();
    let top = Archive::new()
        .file("etc/.wh.a", b"")
        .file("etc/b", b"top b")
        .dir("old", 0o700)
        .file("old/.wh..wh..opq", b"")
        .file("old/y", b"y")
        .file("lib/through", b"through a link")
        .hardlink("linked", "kept")
        .finish();
    let fixture = Fixture::new();
    let image = fixture.import(&[base, top]).unwrap();
    let (_dir, mounted) = mount(&image);
    let tree = mounted.tree();
    let paths: Vec<_> =
        tree.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(
        paths,
        [
            "",
            "etc",
            "etc/b",
            "kept",
            "lib",
            "linked",
            "old",
            "old/y",
            "usr",
            "usr/lib",
            "usr/lib/through"
        ]
    );
    assert_eq!(at(&tree, "etc/b").kind, Kind::File(b"top b".to_vec()));
    assert_eq!((at(&tree, "old").mode, at(&tree, "linked").links), (0o700, 2));
    let dump = Command::new("dump.erofs").arg("-s").arg(_dir.path().join("disk")).output().unwrap();
    assert!(String::from_utf8_lossy(&dump.stdout).contains("sb_csum"));
}

#[test]
fn the_variant_for_this_host_is_the_same_tree() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::new();
    // More layers than slots of the device table fit in the first block.
    let layers: Vec<Vec<u8>> = (0..30_u32)
        .map(|i| {
            let mut archive =
                Archive::new().file(&format!("file-{i}"), &i.to_le_bytes().repeat(3000));
            if i % 2 == 0 {
                archive = archive.file("every-second", &i.to_le_bytes());
            }
            archive.finish()
        })
        .collect();
    for layers in [&layers[..], &layers[..1], &[Archive::new().dir("empty", 0o700).finish()]] {
        let image = fixture.import(layers).unwrap();
        let (_dir, flat) = mount(&image);
        let (metadata, blobs) = image.host_disk(&fixture.store).unwrap();
        assert_eq!(image.host_disk(&fixture.store).unwrap(), (metadata.clone(), blobs.clone()));
        let loops: Vec<LoopDevice> = blobs.iter().map(|blob| LoopDevice::new(blob)).collect();
        let mut options = "ro,loop".to_owned();
        for device in &loops {
            options.push_str(&format!(",device={}", device.path()));
        }
        let mounted = disk::Mounted::new(&metadata, "erofs", &options);
        assert_eq!(mounted.tree(), flat.tree(), "{} layers", layers.len());
    }
    assert!(fixture.leftovers().iter().all(|name| !name.starts_with("tmp")));
}
