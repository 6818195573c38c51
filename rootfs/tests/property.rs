//! Random stacks of layers, compared with a simple model; and random damage, which must never do more than refuse an image.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests too"
)]

mod support;

use proptest::{collection::vec, option, prelude::*, sample::select};
use support::{
    Fixture,
    archive::Archive,
    chain,
    disk::{can_mount, concatenate, fsck, mount_in},
    model::{Action, Model, Op, What},
};
use tar::EntryType;

fn name() -> impl Strategy<Value = String> {
    let mut names: Vec<String> = ["a", "b", "c", "d", "!", ".x", "ü"].map(String::from).to_vec();
    names.push("n".repeat(255));
    select(names)
}

fn path(most: usize) -> impl Strategy<Value = Vec<String>> {
    vec(name(), 0..=most)
}

fn what() -> impl Strategy<Value = What> {
    let size = select(vec![
        0_usize,
        1,
        100,
        4095,
        4096,
        4097,
        65_536,
        65_537,
        200_000,
        1 << 20,
        (1 << 20) + 1,
    ]);
    prop_oneof![
        4 => Just(What::Directory),
        4 => (any::<u8>(), size).prop_map(|(seed, size)| What::File { seed, size }),
        1 => (0..5_000_000_usize, 1_000_000..5_000_000_usize).prop_map(|(at, size)| What::Sparse { at, size }),
        2 => select(vec!["a", "/a/b", "../c", "missing", "."]).prop_map(|target| What::Symlink(target.into())),
        1 => "[a-z/]{1000,4095}".prop_map(What::Symlink),
        1 => (0..4096_u32, 1..1_048_576_u32).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => Just(What::Fifo),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let action = prop_oneof![
        10 => what().prop_map(Action::Put),
        3 => path(3).prop_map(Action::Link),
        3 => Just(Action::Whiteout),
        1 => Just(Action::Opaque),
    ];
    let uid = prop_oneof![Just(0_u32), 1..70_000_u32, Just(4_294_967_294)];
    let mtime = prop_oneof![3 => Just((1_600_000_000_i64, 0_u32)), 1 => (0..5_000_000_000_i64, 0..1_000_000_000_u32)];
    let xattr = option::weighted(0.2, vec(any::<u8>(), 0..5000));
    (path(3), action, 0..0o10000_u32, uid, mtime, xattr).prop_map(
        |(path, action, mode, uid, mtime, xattr)| Op { path, action, mode, uid, mtime, xattr },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mounted_image_is_what_the_model_says(layers in vec(vec(op(), 0..40), 1..5)) {
        if !can_mount() {
            return Ok(());
        }
        let mut model = Model::new();
        let layers: Vec<_> = layers.iter().map(|ops| model.apply(ops)).collect();
        let fixture = Fixture::quick();
        let image = fixture.import(&layers).map_err(|e| TestCaseError::fail(chain(&e)))?;
        let mounted = mount_in(&image, fixture.dir.path());
        let (seen, expected) = (mounted.tree(), model.tree());
        for (path, expected) in &expected {
            prop_assert!(seen.get(path) == Some(expected), "{}: {expected:?} is expected, not {:?}", path.escape_ascii(), seen.get(path));
        }
        prop_assert_eq!(seen.len(), expected.len());
    }
}

/// An archive with something of everything, and where its headers are.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let archive = Archive::new()
        .dir("d", 0o755)
        .file("d/f", &[3; 5000])
        .symlink("d/l", "f")
        .hardlink("d/h", "d/f")
        .device("d/c", EntryType::Char, 1, 3)
        .pax(&[("path", b"p"), ("SCHILY.xattr.user.a", b"1"), ("mtime", b"1.5")])
        .file("x", b"y")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"90000"),
            ("GNU.sparse.name", b"s"),
        ])
        .file("sparse", &[&b"1\n80000\n3\n"[..], &[0; 502], b"abc"].concat())
        .file("d/.wh.gone", b"")
        .file(&"n/".repeat(100), b"")
        .finish();
    let magic = |at: &usize| archive[at + 257..].starts_with(b"ustar");
    let headers = (0..archive.len()).step_by(512).filter(magic).collect();
    (archive, headers)
}

fn fix_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_archives_are_refused_or_make_sound_images(
        damage in vec((any::<prop::sample::Index>(), 0..512_usize, any::<u8>()), 1..6),
        data_damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let (mut archive, headers) = sample();
        for (at, byte) in data_damage {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        for (header, offset, byte) in damage {
            let start = *header.get(&headers);
            archive[start + offset] = byte;
            fix_checksum(&mut archive[start..start + 512]);
        }
        if let Some(cut) = cut {
            archive.truncate(cut.index(archive.len()));
        }
        let fixture = Fixture::quick();
        match fixture.import(&[archive]) {
            Ok(image) => {
                let disk = fixture.dir.path().join("disk");
                concatenate(&image, &disk);
                fsck(&disk);
            }
            Err(error) => {
                prop_assert!(!chain(&error).contains('\n'));
                prop_assert_eq!(fixture.leftovers(), [] as [String; 0]);
            }
        }
    }
}
