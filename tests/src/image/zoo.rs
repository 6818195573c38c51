//! One of every kind of file that a layer can hold, and the two ways to take files away again.

use super::{Entry, entry::DEFAULT_MTIME};

/// A capability set as the kernel stores it (`struct vfs_cap_data`, revision 2): `cap_net_raw` permitted and effective.
const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What the upper layer takes away, as the lower layer has it.
#[must_use]
pub(super) fn doomed() -> Vec<Entry> {
    vec![
        Entry::directory("zoo"),
        Entry::file("zoo/gone", "taken away by the layer above\n"),
        Entry::directory("zoo/gone-directory"),
        Entry::file("zoo/gone-directory/file", "goes with its directory\n"),
        Entry::directory("zoo/opaque"),
        Entry::file("zoo/opaque/below", "hidden by the opaque directory above\n"),
        Entry::file("zoo/replaced", "below\n").owner(5, 5),
        Entry::file("zoo/becomes-directory", "a file below, a directory above\n"),
        Entry::directory("zoo/becomes-file"),
        Entry::file("zoo/becomes-file/inner", "a directory below, a file above\n"),
        Entry::file("zoo/kept", "only below\n").mode(0o600),
    ]
}

/// The upper layer.
#[must_use]
pub(super) fn zoo() -> Vec<Entry> {
    let long_name = "n".repeat(255);
    let deep = format!("zoo/deep{}", "/a-directory-of-a-deep-path".repeat(12));
    let mut entries = vec![
        Entry::directory("zoo").mtime(DEFAULT_MTIME + 1, 0),
        Entry::whiteout("zoo", "gone"),
        Entry::whiteout("zoo", "gone-directory"),
        Entry::directory("zoo/opaque").mode(0o750),
        Entry::opaque("zoo/opaque"),
        Entry::file("zoo/opaque/above", "the only one left\n"),
        Entry::file("zoo/replaced", "above\n").owner(6, 7),
        Entry::directory("zoo/becomes-directory"),
        Entry::file("zoo/becomes-directory/inner", "new\n"),
        Entry::file("zoo/becomes-file", "new\n"),
        Entry::file("zoo/empty", ""),
        Entry::file("zoo/one-byte", "1"),
        Entry::file("zoo/a-block", pattern(1, 4096)),
        Entry::file("zoo/more-than-a-block", pattern(2, 4097)),
        Entry::file("zoo/many-blocks", pattern(3, 300_001)),
        Entry::hard_link("zoo/hard-link", "zoo/many-blocks"),
        Entry::hard_link("zoo/another-hard-link", "zoo/many-blocks"),
        Entry::symlink("zoo/link", "many-blocks"),
        Entry::symlink("zoo/absolute-link", "/zoo/many-blocks"),
        Entry::symlink("zoo/dangling-link", "../../nowhere/at/all"),
        Entry::symlink("zoo/long-link", &format!("/{}", "long/".repeat(400))),
        Entry::fifo("zoo/fifo").mode(0o640).owner(1, 2),
        Entry::character("zoo/null", 1, 3).mode(0o666),
        Entry::character("zoo/large-device", 511, 70_000),
        Entry::block("zoo/loop", 7, 0).mode(0o660).owner(0, 6),
        Entry::file("zoo/set-uid", "#!\n").mode(0o4755),
        Entry::file("zoo/set-gid", "#!\n").mode(0o2755).owner(0, 42),
        Entry::file("zoo/no-permissions", "secret\n").mode(0),
        Entry::directory("zoo/sticky").mode(0o1777),
        Entry::file("zoo/capability", "#!\n")
            .mode(0o755)
            .xattr("security.capability", &CAP_NET_RAW),
        Entry::file("zoo/attributes", "")
            .xattr("user.short", b"v")
            .xattr("user.binary", &[0, 0xff, b'=', b'\n', 0])
            .xattr("user.long", &pattern(4, 1000)),
        Entry::directory("zoo/directory-with-attributes").xattr("user.on", b"a directory"),
        Entry::sparse(
            "zoo/sparse",
            9 << 20,
            vec![(1 << 20, pattern(5, 512)), (5 << 20, pattern(6, 100))],
        ),
        Entry::sparse("zoo/all-hole", 3 << 20, vec![]),
        Entry::file("zoo/large-owner", "").owner(3_000_000_000, 4_000_000_000),
        Entry::file("zoo/old", "").mtime(0, 0),
        Entry::file("zoo/after-2038", "").mtime(5_000_000_000, 0),
        Entry::file("zoo/nanoseconds", "").mtime(DEFAULT_MTIME, 123_456_789),
        Entry::file(&format!("zoo/{long_name}"), "a name of 255 bytes\n"),
        Entry::file("zoo/name with spaces\tand \"quotes\" and \\", ""),
        Entry::file("", "not UTF-8\n").raw_path(b"zoo/\xff\xfe\x80"),
        Entry::file("zoo/\u{fc}\u{4e2d}\u{1f40b}", ""),
        Entry::directory("zoo/crowd"),
    ];
    let mut parent = String::from("zoo/deep");
    entries.push(Entry::directory(&parent));
    for part in deep.split('/').skip(2) {
        parent = format!("{parent}/{part}");
        entries.push(Entry::directory(&parent));
    }
    entries.push(Entry::file(&format!("{parent}/file"), "at the end of a long path\n"));
    // More names than one directory block holds.
    entries.extend((0..400).map(|n| Entry::file(&format!("zoo/crowd/member-{n:03}"), "")));
    entries
}

/// Bytes that do not compress into nothing and are the same everywhere.
fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .collect()
}
