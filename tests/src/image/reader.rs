//! Reads layers back, member by member: the ustar and PAX that `layer.rs` writes, and GNU's sparse members. Written from
//! the formats' descriptions, so that what is compared with a container has not gone through an importer's reader.

use std::{collections::BTreeMap, io};

const BLOCK: usize = 512;

/// A member of an archive.
#[derive(Debug, Default)]
pub(super) struct Member<'a> {
    /// The type flag (POSIX.1-2017, pax, "ustar Interchange Format"; `S` is GNU's sparse file).
    pub(super) flag: u8,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) device: (u64, u64),
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    /// The size of what the member stands for.
    pub(super) size: u64,
    /// What is not a hole: offset and bytes.
    pub(super) pieces: Vec<(u64, &'a [u8])>,
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The members of an archive up to its end.
pub(super) fn members(mut tar: &[u8]) -> io::Result<Vec<Member<'_>>> {
    let mut found = Vec::new();
    let mut records = BTreeMap::new();
    loop {
        let header = take(&mut tar, BLOCK)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(found);
        }
        let size = number(&header[124..136])?;
        let flag = header[156];
        let map = if flag == b'S' { sparse_map(header, &mut tar)? } else { vec![(0, size)] };
        let stored = usize::try_from(size).map_err(io::Error::other)?;
        let body = take(&mut tar, stored.next_multiple_of(BLOCK))?;
        let body = &body[..stored];
        if flag == b'x' {
            records = pax(body)?;
            continue;
        }
        let real_size = if flag == b'S' { number(&header[483..495])? } else { size };
        let mut pieces = Vec::new();
        let mut rest = body;
        for (offset, length) in map.into_iter().filter(|(_, length)| *length > 0) {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            pieces.push((offset, take(&mut rest, length)?));
        }
        found.push(member(header, std::mem::take(&mut records), real_size, pieces)?);
    }
}

fn member<'a>(
    header: &[u8],
    mut records: BTreeMap<String, Vec<u8>>,
    size: u64,
    pieces: Vec<(u64, &'a [u8])>,
) -> io::Result<Member<'a>> {
    let mut text = |key: &str, field: &[u8]| {
        records
            .remove(key)
            .unwrap_or_else(|| field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
    };
    let path = text("path", &header[..100]);
    let link = text("linkpath", &header[157..257]);
    let mut id = |key: &str, field: &[u8]| -> io::Result<u32> {
        let value = match records.remove(key) {
            Some(value) => String::from_utf8_lossy(&value).parse().map_err(io::Error::other)?,
            None => number(field)?,
        };
        u32::try_from(value).map_err(io::Error::other)
    };
    let (uid, gid) = (id("uid", &header[108..116])?, id("gid", &header[116..124])?);
    let mtime = match records.remove("mtime") {
        Some(value) => decimal(&String::from_utf8_lossy(&value))?,
        None => (i64::try_from(number(&header[136..148])?).map_err(io::Error::other)?, 0),
    };
    let xattrs = records
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("SCHILY.xattr.")?.to_owned(), value)));
    Ok(Member {
        flag: header[156],
        path,
        link,
        mode: u32::try_from(number(&header[100..108])?).map_err(io::Error::other)? & 0o7777,
        uid,
        gid,
        mtime,
        device: (number(&header[329..337])?, number(&header[337..345])?),
        xattrs: xattrs.collect(),
        size,
        pieces,
    })
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> io::Result<&'a [u8]> {
    let (head, rest) =
        from.split_at_checked(length).ok_or_else(|| wrong("the archive is cut short"))?;
    *from = rest;
    Ok(head)
}

/// Octal digits, or base 256 when the first bit is set.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        return Ok(field[1..].iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let text = String::from_utf8_lossy(field);
    let digits = text.trim_matches(['\0', ' ']);
    if digits.is_empty() { Ok(0) } else { u64::from_str_radix(digits, 8).map_err(io::Error::other) }
}

/// Four pieces in the header, 21 in each block that follows while the last one says so.
fn sparse_map(header: &[u8], tar: &mut &[u8]) -> io::Result<Vec<(u64, u64)>> {
    let mut map = Vec::new();
    let mut add = |entries: &[u8]| -> io::Result<()> {
        for entry in entries.chunks(24).filter(|entry| entry[0] != 0) {
            map.push((number(&entry[..12])?, number(&entry[12..])?));
        }
        Ok(())
    };
    add(&header[386..482])?;
    let mut more = header[482] != 0;
    while more {
        let block = take(tar, BLOCK)?;
        add(&block[..504])?;
        more = block[504] != 0;
    }
    Ok(map)
}

/// Records `LENGTH KEY=VALUE\n`, whose length counts all of it; a value may hold any byte.
fn pax(mut body: &[u8]) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut records = BTreeMap::new();
    while !body.is_empty() {
        let blank =
            body.iter().position(|byte| *byte == b' ').ok_or_else(|| wrong("a PAX record"))?;
        let length: usize =
            String::from_utf8_lossy(&body[..blank]).parse().map_err(io::Error::other)?;
        let record = take(&mut body, length)?;
        let record = &record[blank + 1..length - 1];
        let equals =
            record.iter().position(|byte| *byte == b'=').ok_or_else(|| wrong("a PAX record"))?;
        let key = String::from_utf8_lossy(&record[..equals]).into_owned();
        records.insert(key, record[equals + 1..].to_vec());
    }
    Ok(records)
}

/// A PAX time: seconds with decimals.
fn decimal(text: &str) -> io::Result<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds = format!("{fraction:0<9}")[..9].parse().map_err(io::Error::other)?;
    Ok((whole.parse().map_err(io::Error::other)?, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Entry, tar_of};

    #[test]
    fn what_was_written_is_read_back() {
        let pieces: Vec<_> = (0..30).map(|n| (n * 4096, vec![7; 512])).collect();
        let long = "d/".repeat(60);
        let tar = tar_of(&[
            Entry::file(&long, "text")
                .owner(3_000_000_000, 7)
                .mtime(5, 123)
                .xattr("user.b", b"\n=\0\n"),
            Entry::sparse("s", 1 << 34, pieces.clone()),
            Entry::symlink("l", &long),
            Entry::block("b", 7, 300).mtime(-9, 0),
        ]);
        let members = members(&tar).unwrap();
        assert_eq!(members.len(), 4);
        let file = &members[0];
        assert_eq!(
            (file.path.as_slice(), file.uid, file.gid, file.mtime),
            (long.as_bytes(), 3_000_000_000, 7, (5, 123))
        );
        assert_eq!(file.pieces, [(0, b"text".as_slice())]);
        assert_eq!(file.xattrs["user.b"], b"\n=\0\n");
        assert_eq!(members[1].size, 1 << 34);
        let read: Vec<_> =
            members[1].pieces.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect();
        assert_eq!(read, pieces);
        assert_eq!(members[2].link, long.as_bytes());
        assert_eq!((members[3].device, members[3].mtime), ((7, 300), (-9, 0)));
        assert!(super::members(&tar[..tar.len() - 1024]).is_err());
    }
}
