//! Layers that are big in one way or another: many entries, many names in one directory, files of gigabytes that are holes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use bulkhead_rootfs::{Digest, Image};
use support::{
    Fixture,
    archive::{Archive, header},
    disk::{can_mount, mount},
    layout::Layout,
};
use tar::EntryType;

const SIZE: u64 = 4 << 30;

fn disk_usage(image: &Image) -> u64 {
    image.disk_files().iter().map(|file| fs::metadata(file).unwrap().blocks() * 512).sum()
}

#[test]
fn a_hundred_thousand_entries_are_all_found() {
    let mut archive = Archive::new().dir("flat", 0o755);
    for i in 0..60_000_u32 {
        let name = if i % 100 == 0 { format!("flat/{i:0>255}") } else { format!("flat/{i}") };
        archive = if i % 20 == 0 {
            archive.file(&name, &i.to_le_bytes())
        } else {
            archive.symlink(&name, &i.to_string())
        };
    }
    for i in 0..40_000_u32 {
        archive = archive.symlink(&format!("deep/{}/{}/{}", i % 10, i / 10 % 100, i / 1000), "x");
    }
    let fixture = Fixture::new();
    let image = fixture.import(&[archive.finish()]).unwrap();
    assert_eq!(image.read_file("flat/59980", 4).unwrap().unwrap(), 59_980_u32.to_le_bytes());
    if !can_mount() {
        return;
    }
    let (_dir, mounted) = mount(&image);
    assert_eq!(fs::read_dir(mounted.path().join("flat")).unwrap().count(), 60_000);
    for i in (0..60_000_u32).step_by(97) {
        let name = if i % 100 == 0 { format!("flat/{i:0>255}") } else { format!("flat/{i}") };
        let path = mounted.path().join(name);
        if i % 20 == 0 {
            assert_eq!(fs::read(path).unwrap(), i.to_le_bytes());
        } else {
            assert_eq!(fs::read_link(path).unwrap(), Path::new(&i.to_string()));
        }
    }
    assert!(!mounted.path().join("flat/60000").exists() && !mounted.path().join("flat/-").exists());
    assert_eq!(fs::metadata(mounted.path().join("deep")).unwrap().nlink(), 12);
}

/// An old GNU sparse file of 4 GiB with `data` at `at`.
fn old_gnu(archive: Archive, name: &str, at: u64, data: &[u8]) -> Archive {
    let octal = |value: u64| {
        let mut field = [0; 12];
        field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
        field
    };
    let mut sparse = header(EntryType::GNUSparse, 0o644);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.realsize = octal(SIZE);
    gnu.sparse[0].offset = octal(at);
    gnu.sparse[0].numbytes = octal(data.len() as u64);
    sparse.set_size(data.len() as u64);
    archive.raw(sparse, name.as_bytes(), data)
}

fn check_sparse(path: &Path, size: u64, at: u64, data: &[u8]) {
    let mut file = fs::File::open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size, "{}", path.display());
    let mut read = |at: u64, length: usize| {
        let mut bytes = vec![0xff; length];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(at, data.len()), data, "{}", path.display());
    for zeros in [0, at - 70_000, at - 10_000] {
        assert!(read(zeros, 10_000).iter().all(|b| *b == 0), "{} at {zeros}", path.display());
    }
}

#[test]
fn sparse_files_of_gigabytes_cost_nothing() {
    let (at, data) = (3 << 30 | 12_345, b"somewhere in the middle");
    let map = format!("{at},{}", data.len());
    let in_data = format!("1\n{at}\n{}\n", data.len());
    let mut with_map = in_data.into_bytes();
    with_map.resize(512, 0);
    with_map.extend_from_slice(data);
    let size = SIZE.to_string();
    let (at_text, length) = (at.to_string(), data.len().to_string());
    let archive = old_gnu(Archive::new(), "old", at, data)
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.offset", at_text.as_bytes()),
            ("GNU.sparse.numbytes", length.as_bytes()),
        ])
        .file("pax-0.0", data)
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.name", b"pax-0.1"),
        ])
        .file("x", data)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", size.as_bytes()),
            ("GNU.sparse.name", b"pax-1.0"),
        ])
        .file("y", &with_map)
        .pax(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", b"")])
        .file("nothing", b"")
        .finish();
    let fixture = Fixture::new();
    let image = fixture.import(&[archive]).unwrap();
    assert!(disk_usage(&image) < 2 << 20, "{} bytes", disk_usage(&image));
    assert!(image.size < 64 << 20, "{} bytes", image.size);
    if !can_mount() {
        return;
    }
    let (_dir, mounted) = mount(&image);
    for name in ["old", "pax-0.0", "pax-0.1", "pax-1.0"] {
        check_sparse(&mounted.path().join(name), SIZE, at, data);
    }
    assert_eq!(fs::metadata(mounted.path().join("nothing")).unwrap().len(), SIZE);
}

/// Zeros, but for the end, in a layer that says nothing of holes.
#[test]
fn zeros_in_a_plain_file_become_holes() {
    const SIZE: u64 = 96 << 20;
    let data = b"the end";
    let mut plain = header(EntryType::Regular, 0o644);
    plain.set_path("zeros").unwrap();
    plain.set_size(SIZE);
    plain.set_cksum();
    // The stream's digest is made from the same pieces, so that they are never in memory.
    let head = plain.as_bytes().to_vec();
    let megabyte = vec![0; 1 << 20];
    let mut tail = vec![0; (1 << 20) - data.len()];
    tail.extend_from_slice(data);
    tail.extend_from_slice(&[0; 1024]);
    let mut hasher = sha2::Sha256::default();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut write = |bytes: &[u8]| {
        use sha2::Digest as _;
        hasher.update(bytes);
        encoder.write_all(bytes).unwrap();
    };
    write(&head);
    for _ in 0..(SIZE >> 20) - 1 {
        write(&megabyte);
    }
    write(&tail);
    let blob = encoder.finish().unwrap();
    let hex: String = sha2::Digest::finalize(hasher).iter().map(|b| format!("{b:02x}")).collect();
    let diff_id: Digest = format!("sha256:{hex}").parse().unwrap();

    let fixture = Fixture::new();
    let mut layout = Layout::new(&[Vec::new()]);
    layout.layers = vec![(blob, diff_id)];
    layout.config["rootfs"]["diff_ids"] = serde_json::json!([diff_id.to_string()]);
    let source = layout.write(&fixture.dir.path().join("layout"));
    let image = fixture.store.import(&source, Some("zeros"), &()).unwrap();
    assert!(disk_usage(&image) < 1 << 20, "{} bytes", disk_usage(&image));
    if can_mount() {
        let (_dir, mounted) = mount(&image);
        check_sparse(&mounted.path().join("zeros"), SIZE, SIZE - data.len() as u64, data);
    }
}
