use std::os::unix::fs::MetadataExt;

use super::*;

/// Writes files made of data and holes; returns where they went and the finished blob.
fn write(files: &[&[Piece]]) -> (Vec<Content>, File) {
    let file = tempfile::tempfile().unwrap();
    let mut blob = DataWriter::new(file.try_clone().unwrap());
    let mut contents = Vec::new();
    for pieces in files {
        let size = pieces.iter().map(Piece::size).sum();
        let mut writer = blob.file(size).unwrap();
        let mut at = 0;
        for piece in *pieces {
            at += piece.size();
            match piece {
                Piece::Data(byte, size) => {
                    writer.data(&vec![*byte; usize::try_from(*size).unwrap()]).unwrap()
                }
                Piece::Hole(_) => writer.hole_until(at).unwrap(),
            }
        }
        contents.push(writer.finish());
    }
    let blocks = blob.finish().unwrap();
    assert_eq!(file.metadata().unwrap().len(), u64::from(blocks) * BLOCK);
    (contents, file)
}

enum Piece {
    Data(u8, u64),
    Hole(u64),
}

impl Piece {
    fn size(&self) -> u64 {
        match self {
            Self::Data(_, size) | Self::Hole(size) => *size,
        }
    }
}

use Piece::{Data, Hole};

#[test]
fn files_start_on_blocks_and_follow_each_other() {
    let (contents, file) =
        write(&[&[Data(1, 1)], &[], &[Data(2, 4097)], &[Data(0, 100)], &[Data(3, 5 << 20)]]);
    let maps: Vec<_> = contents.iter().map(|c| c.map.clone()).collect();
    assert_eq!(maps, [Map::Flat(0), Map::Flat(0), Map::Flat(1), Map::Flat(3), Map::Flat(4)]);
    let mut byte = [0; 2];
    file.read_exact_at(&mut byte, 2 * BLOCK).unwrap();
    assert_eq!(byte, [2, 0]);
    file.read_exact_at(&mut byte, 4 * BLOCK + (5 << 20) - 2).unwrap();
    assert_eq!(byte, [3, 3]);
}

#[test]
fn chunks_without_data_need_no_blocks() {
    let (contents, file) = write(&[
        &[Hole(3 << 20), Data(7, 10), Data(0, 1 << 20), Hole((4 << 20) - 10)],
        &[Hole(1 << 40)],
        &[Data(8, 1)],
    ]);
    let chunks = vec![HOLE, HOLE, HOLE, 0, HOLE, HOLE, HOLE, HOLE];
    assert_eq!(contents[0].map, Map::Chunks { bits: 8, blocks: chunks });
    assert_eq!(contents[1].map, Map::Chunks { bits: 16, blocks: vec![HOLE; 4096] });
    assert_eq!(contents[2].map, Map::Flat(256));
    assert_eq!((contents[0].end_block(), contents[1].end_block()), (256, 0));
    assert!(file.metadata().unwrap().blocks() * 512 < 512 << 10);
}

#[test]
fn content_beyond_the_size_is_refused() {
    let mut blob = DataWriter::new(tempfile::tempfile().unwrap());
    let mut writer = blob.file(10).unwrap();
    assert!(matches!(writer.data(&[1; 11]), Err(EntryError::Overrun(10))));
    assert!(matches!(blob.file(limits::FILE + 1), Err(EntryError::FileTooLarge(_))));
}
