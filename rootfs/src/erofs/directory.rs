//! The content of an EROFS directory: blocks of entries and names, each block on its own, names in byte order over all of them.

use super::disk::{BLOCK, DIRENT, low16};
use crate::merge::{FileId, Names};

/// The names of a directory with `.` and `..`, in order.
pub(super) fn entries<'a>(
    names: &'a Names<'_>,
    this: FileId,
    parent: FileId,
) -> impl Iterator<Item = (&'a [u8], FileId)> {
    let dots = [(&b"."[..], this), (&b".."[..], parent)];
    let rest = names.iter().map(|(name, id)| (*name, *id));
    // Names that sort before "." are rare but legal.
    let mut dots = dots.into_iter().peekable();
    let mut rest = rest.peekable();
    std::iter::from_fn(move || match (dots.peek(), rest.peek()) {
        (Some((dot, _)), Some((name, _))) if name < dot => rest.next(),
        (Some(_), _) => dots.next(),
        _ => rest.next(),
    })
}

/// Bytes of a directory's content: whole blocks, and what the last one holds.
pub(super) fn size<'a>(entries: impl Iterator<Item = (&'a [u8], FileId)>) -> u64 {
    let (mut full, mut used) = (0, 0);
    for (name, _) in entries {
        let needed = DIRENT + name.len();
        if used + needed > BLOCK {
            full += 1;
            used = 0;
        }
        used += needed;
    }
    full * BLOCK as u64 + used as u64
}

/// Writes a directory's content. `describe` gives an entry's inode number and type (`EROFS_FT_*`, the same as `FT_*`).
pub(super) fn write<'a>(
    entries: impl Iterator<Item = (&'a [u8], FileId)>,
    describe: impl Fn(FileId) -> (u64, u8),
    out: &mut Vec<u8>,
) {
    let mut block: Vec<(&[u8], FileId)> = Vec::new();
    let mut used = 0;
    for (name, id) in entries {
        let needed = DIRENT + name.len();
        if used + needed > BLOCK {
            write_block(&block, &describe, out);
            out.resize(out.len() + BLOCK - used, 0);
            block.clear();
            used = 0;
        }
        block.push((name, id));
        used += needed;
    }
    write_block(&block, &describe, out);
}

fn write_block(
    block: &[(&[u8], FileId)],
    describe: &impl Fn(FileId) -> (u64, u8),
    out: &mut Vec<u8>,
) {
    let mut name_offset = block.len() * DIRENT;
    for (name, id) in block {
        let (inode, kind) = describe(*id);
        out.extend_from_slice(&inode.to_le_bytes());
        out.extend_from_slice(&low16(name_offset as u64).to_le_bytes());
        out.extend_from_slice(&[kind, 0]);
        name_offset += name.len();
    }
    for (name, _) in block {
        out.extend_from_slice(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dots_are_sorted_among_the_names() {
        let names = Names::from([(&b"!"[..], 5), (b"-", 6), (b"..a", 7), (b"a", 8)]);
        let order: Vec<_> = entries(&names, 1, 2).collect();
        assert_eq!(
            order,
            [(&b"!"[..], 5), (b"-", 6), (b".", 1), (b"..", 2), (b"..a", 7), (b"a", 8)]
        );
    }

    #[test]
    fn the_size_is_what_is_written() {
        let long: Vec<Vec<u8>> =
            (0..100_u8).map(|i| [&[b'a' + i % 26; 200][..], &[i; 55]].concat()).collect();
        for count in [0, 1, 14, 15, 16, 100] {
            let names: Names<'_> = long.iter().take(count).map(|name| (&name[..], 9)).collect();
            let mut out = Vec::new();
            write(entries(&names, 1, 2), |id| (u64::from(id), 1), &mut out);
            assert_eq!(size(entries(&names, 1, 2)), out.len() as u64, "{count}");
        }
    }
}
