use std::io::BufReader;

use super::*;

impl Input for BufReader<&[u8]> {}

/// Collects a file's content with its holes filled.
struct Collect(Vec<u8>);

impl Sink for Collect {
    type Error = TarError;
    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn hole_until(&mut self, offset: u64) -> Result<(), TarError> {
        self.0.resize(usize::try_from(offset).unwrap(), 0);
        Ok(())
    }
}

/// All entries with their contents. The tiny buffer makes every read come in pieces.
fn read(bytes: &[u8]) -> Result<Vec<(String, EntryKind, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(BufReader::with_capacity(100, bytes));
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Collect(Vec::new());
        reader.content(&entry, &mut content)?;
        assert_eq!(content.0.len() as u64, entry.size);
        all.push((String::from_utf8_lossy(&entry.path).into_owned(), entry.kind, content.0));
    }
    Ok(all)
}

fn header(kind: tar::EntryType, path: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(path).unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    out.resize(data.len().next_multiple_of(RECORD), 0);
    out
}

fn octal(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
    field
}

#[test]
fn an_archive_is_read_and_may_end_without_its_end() {
    let archive =
        [header(tar::EntryType::Regular, "a", 5).as_bytes().to_vec(), padded(b"hello")].concat();
    let expected = [("a".to_owned(), EntryKind::Regular, b"hello".to_vec())];
    assert_eq!(read(&archive).unwrap(), expected);
    assert_eq!(read(&[&archive[..], &[0; 2048]].concat()).unwrap(), expected);
    assert_eq!(read(b"").unwrap(), []);
}

#[test]
fn a_cut_archive_is_refused_wherever_it_is_cut() {
    let archive =
        [header(tar::EntryType::Regular, "a", 700).as_bytes().to_vec(), padded(&[1; 700])].concat();
    for length in [1, 511, 513, 1000, 1211] {
        let result = read(&archive[..length]);
        assert!(matches!(result, Err(TarError::Truncated(_))), "{length}: {result:?}");
    }
}

#[test]
fn only_files_bring_data_and_a_slash_makes_a_directory() {
    let archive = [
        header(tar::EntryType::Symlink, "link", 512).as_bytes().to_vec(),
        header(tar::EntryType::Regular, "dir/", 0).as_bytes().to_vec(),
        header(tar::EntryType::Regular, "file", 1).as_bytes().to_vec(),
        padded(b"x"),
    ]
    .concat();
    let kinds: Vec<_> = read(&archive).unwrap().into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, [EntryKind::Symlink, EntryKind::Directory, EntryKind::Regular]);
}

#[test]
fn unknown_types_and_huge_headers_are_refused() {
    let unknown = header(tar::EntryType::new(b'D'), "dump", 0);
    assert!(matches!(read(unknown.as_bytes()), Err(TarError::Type { kind: b'D', .. })));
    for kind in [b'x', b'L', b'K'] {
        let huge = header(tar::EntryType::new(kind), "huge", 1 << 40);
        assert!(matches!(read(huge.as_bytes()), Err(TarError::HeaderTooLarge { .. })), "{kind}");
    }
}

fn old_gnu_sparse(segments: &[(u64, u64)], size: u64, data: &[u8]) -> Vec<u8> {
    let mut first = header(tar::EntryType::GNUSparse, "sparse", data.len() as u64);
    let gnu = first.as_gnu_mut().unwrap();
    gnu.realsize = octal(size);
    let mut rest = segments.iter();
    for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(rest.by_ref()) {
        (slot.offset, slot.numbytes) = (octal(*offset), octal(*length));
    }
    let rest: Vec<_> = segments.get(4..).unwrap_or_default().chunks(21).collect();
    gnu.isextended = [u8::from(!rest.is_empty())];
    first.set_cksum();
    let mut out = first.as_bytes().to_vec();
    for (i, chunk) in rest.iter().enumerate() {
        let mut record = [0; RECORD];
        for (slot, (offset, length)) in record.chunks_exact_mut(24).zip(*chunk) {
            slot[..12].copy_from_slice(&octal(*offset));
            slot[12..].copy_from_slice(&octal(*length));
        }
        record[504] = u8::from(i + 1 < rest.len());
        out.extend(record);
    }
    out.extend(padded(data));
    out
}

#[test]
fn old_gnu_sparse_files_are_read_over_extension_records() {
    let segments: Vec<(u64, u64)> = (0..60).map(|i| (i * 1000, 2)).collect();
    let data: Vec<u8> = (0..60_u8).flat_map(|i| [i + 1; 2]).collect();
    let archive = [
        old_gnu_sparse(&segments, 70_000, &data),
        header(tar::EntryType::Fifo, "next", 0).as_bytes().to_vec(),
    ]
    .concat();
    let all = read(&archive).unwrap();
    let mut expected = vec![0; 70_000];
    for i in 0..60 {
        expected[i * 1000..i * 1000 + 2].fill(u8::try_from(i + 1).unwrap());
    }
    assert!(all[0].2 == expected);
    assert_eq!((all[1].0.as_str(), all.len()), ("next", 2));
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for (segments, size, stored) in [
        (&[(0, 5), (3, 5)][..], 100, 10),
        (&[(90, 20)], 100, 20),
        (&[(0, 5)], 100, 6),
        (&[(0, 7)], 100, 6),
        (&[(5, 1), (0, 1)], 100, 2),
    ] {
        let archive = old_gnu_sparse(segments, size, &vec![1; stored]);
        assert!(matches!(read(&archive), Err(TarError::Sparse(0))), "{segments:?}");
    }
}

#[test]
fn pax_sparse_1_0_has_its_map_in_the_data() {
    let mut pax = Vec::new();
    for record in [
        "22 GNU.sparse.major=1\n",
        "22 GNU.sparse.minor=0\n",
        "25 GNU.sparse.name=named\n",
        "30 GNU.sparse.realsize=100000\n",
    ] {
        assert_eq!(record[..2].parse::<usize>().unwrap(), record.len(), "{record}");
        pax.extend(record.as_bytes());
    }
    let data = [padded(b"2\n0\n3\n50000\n2\n"), b"abcde".to_vec()].concat();
    let archive = [
        header(tar::EntryType::XHeader, "x", pax.len() as u64).as_bytes().to_vec(),
        padded(&pax),
        header(tar::EntryType::Regular, "GNUSparseFile.1/named", data.len() as u64)
            .as_bytes()
            .to_vec(),
        padded(&data),
    ]
    .concat();
    let all = read(&archive).unwrap();
    let mut expected = vec![0; 100_000];
    expected[..3].copy_from_slice(b"abc");
    expected[50_000..50_002].copy_from_slice(b"de");
    assert!(all[0].0 == "named" && all[0].2 == expected);
    let cut = [&archive[..3 * RECORD], &padded(b"999999999\n")[..]].concat();
    assert!(matches!(read(&cut), Err(TarError::Sparse(_) | TarError::Truncated(_))));
}
