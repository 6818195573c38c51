//! A streaming tar reader for untrusted layers. The `tar` crate reads extended headers of any size into memory, splits pax records
//! at newlines that attribute values may hold, and does not know pax sparse files; this reader bounds, keeps and knows them.
//! What counts as what follows Go's archive/tar, which docker and containerd use.

mod error;
mod header;
mod pax;

use std::io::{self, BufRead};

pub use error::TarError;
pub(crate) use header::Segment;
use header::{Header, RECORD};
use pax::Pax;

use crate::limits;

/// A source of tar bytes.
pub(crate) trait Input: BufRead {
    /// Passes over `count` bytes. A seekable input may pass its end here; the next read then finds nothing.
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let available = self.fill_buf()?.len() as u64;
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = available.min(count);
            self.consume(usize::try_from(step).unwrap_or(usize::MAX));
            count -= step;
        }
        Ok(())
    }
}

impl<T: Input + ?Sized> Input for &mut T {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        (**self).skip(count)
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Directory,
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry: what its headers say, nothing judged yet.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    /// The size of the file, holes included. Only regular files have one.
    pub(crate) size: u64,
    pub(crate) mode: u64,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u64, u64),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file: where its data is, in order, without overlap, inside `size`.
    segments: Option<Vec<Segment>>,
}

/// Takes a file's content in order.
pub(crate) trait Sink {
    type Error: From<TarError>;
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    /// The content up to `offset` is zero.
    fn hole_until(&mut self, offset: u64) -> Result<(), Self::Error>;
}

/// Reads entries one after the other.
pub(crate) struct Reader<R> {
    input: R,
    /// Bytes of the stream read so far.
    position: u64,
    /// Bytes of data of the current entry not read yet, and of the padding after them.
    remaining: u64,
    padding: u64,
}

impl<R: Input> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, position: 0, remaining: 0, padding: 0 }
    }

    /// Where the data of the current entry starts or goes on.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next entry; what was not read of the last one is passed over. None at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            let Some(header) = self.next_header()? else {
                return Ok(None);
            };
            let offset = self.position - RECORD as u64;
            match header.kind() {
                b'x' => {
                    let records = self.extended(&header, offset)?;
                    pax.read(&records, offset)?;
                }
                b'g' => self.begin_data(header.size()?),
                b'L' => long_path = Some(header::text(&self.extended(&header, offset)?).to_vec()),
                b'K' => long_link = Some(header::text(&self.extended(&header, offset)?).to_vec()),
                _ => return self.entry(&header, offset, pax, long_path, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        offset: u64,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let sparse = pax.sparse;
        let path = sparse.name.or(pax.path).or(long_path).unwrap_or_else(|| header.path());
        let kind = match header.kind() {
            b'0' | b'\0' | b'7' if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | b'\0' | b'7' | b'S' => EntryKind::Regular,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            kind => return Err(TarError::Type { kind, path: crate::path::display(&path) }),
        };
        // Like Go: only regular files bring data, whatever the size field of the others says.
        let stored = if kind == EntryKind::Regular {
            pax.size.map_or_else(|| header.size(), Ok)?
        } else {
            0
        };
        let (mut size, mut segments) = (stored, None);
        if kind == EntryKind::Regular {
            if header.kind() == b'S' {
                size = header.sparse_size()?;
                segments = Some(self.old_gnu_map(header, offset)?);
                self.begin_data(stored);
            } else if sparse.map_in_data {
                self.begin_data(stored);
                size = sparse.size.ok_or(TarError::Sparse(offset))?;
                segments = Some(self.map_in_data(offset)?);
            } else {
                self.begin_data(stored);
                if let Some(map) = sparse.map {
                    size = sparse.size.ok_or(TarError::Sparse(offset))?;
                    segments = Some(map);
                }
            }
        }
        if let Some(map) = &segments {
            check_map(map, size, self.remaining).ok_or(TarError::Sparse(offset))?;
        }
        Ok(Entry {
            kind,
            path,
            link: pax.link.or(long_link).unwrap_or_else(|| header.link()),
            size,
            mode: header.mode()?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?,
            device: if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
                header.device()?
            } else {
                (0, 0)
            },
            xattrs: pax.xattrs,
            segments,
        })
    }

    /// Passes the content of `entry`, the current one, to `sink`.
    pub(crate) fn content<S: Sink>(&mut self, entry: &Entry, sink: &mut S) -> Result<(), S::Error> {
        match &entry.segments {
            None => self.pass(self.remaining, sink),
            Some(segments) => {
                for segment in segments {
                    sink.hole_until(segment.offset)?;
                    self.pass(segment.length, sink)?;
                }
                sink.hole_until(entry.size)
            }
        }
    }

    fn pass<S: Sink>(&mut self, mut count: u64, sink: &mut S) -> Result<(), S::Error> {
        while count > 0 {
            let available = self.input.fill_buf().map_err(TarError::Read)?;
            let step = available.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            let Some(bytes) = available.get(..step).filter(|b| !b.is_empty()) else {
                return Err(TarError::Truncated(self.position).into());
            };
            sink.data(bytes)?;
            self.input.consume(step);
            count -= step as u64;
            self.position += step as u64;
            self.remaining -= step as u64;
        }
        Ok(())
    }

    /// Passes over what is left of the current entry, then reads a header.
    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        let rest = self.remaining.saturating_add(self.padding);
        self.input.skip(rest).map_err(|e| self.read_error(e))?;
        self.position += rest;
        (self.remaining, self.padding) = (0, 0);
        if self.input.fill_buf().map_err(TarError::Read)?.is_empty() {
            // As Go does: an archive may end without its two records of zeros.
            return Ok(None);
        }
        let mut record = [0; RECORD];
        self.fill(&mut record)?;
        Header::parse(record, self.position - RECORD as u64)
    }

    fn begin_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % RECORD as u64;
    }

    /// The whole data of an extended header.
    fn extended(&mut self, header: &Header, offset: u64) -> Result<Vec<u8>, TarError> {
        let (size, limit) = (header.size()?, limits::TAR_HEADER);
        let length = usize::try_from(size)
            .ok()
            .filter(|_| size <= limit)
            .ok_or(TarError::HeaderTooLarge { offset, size, limit })?;
        self.begin_data(size);
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        self.remaining = 0;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), TarError> {
        self.input.read_exact(bytes).map_err(|e| self.read_error(e))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn read_error(&self, error: io::Error) -> TarError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            TarError::Truncated(self.position)
        } else {
            TarError::Read(error)
        }
    }

    /// The map of an old GNU sparse file: four segments in the header, then extension records that do not count as data.
    fn old_gnu_map(&mut self, header: &Header, offset: u64) -> Result<Vec<Segment>, TarError> {
        let mut segments = Vec::new();
        let mut more = header.sparse_segments(&mut segments)?;
        while more {
            let mut record = [0; RECORD];
            self.fill(&mut record)?;
            more = header::extension_segments(&record, &mut segments)
                .ok_or(TarError::Sparse(offset))?;
            if segments.len() > limits::SPARSE_SEGMENTS {
                return Err(TarError::Sparse(offset));
            }
        }
        Ok(segments)
    }

    /// The map of a pax 1.0 sparse file: decimal lines at the start of the data (the count, then offsets and lengths), padded to a record.
    fn map_in_data(&mut self, offset: u64) -> Result<Vec<Segment>, TarError> {
        let mut numbers = Vec::new();
        let mut wanted = 1;
        let mut digits = Vec::new();
        while numbers.len() < wanted {
            let mut record = [0; RECORD];
            self.remaining =
                self.remaining.checked_sub(RECORD as u64).ok_or(TarError::Sparse(offset))?;
            self.fill(&mut record)?;
            for byte in record {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(TarError::Sparse(offset));
                    }
                    continue;
                }
                let number = pax::decimal(&digits).ok_or(TarError::Sparse(offset))?;
                digits.clear();
                if numbers.is_empty() {
                    let count =
                        usize::try_from(number).ok().filter(|n| *n <= limits::SPARSE_SEGMENTS);
                    wanted = 1 + 2 * count.ok_or(TarError::Sparse(offset))?;
                }
                numbers.push(number);
            }
        }
        numbers.get(1..).and_then(pax::segments).ok_or(TarError::Sparse(offset))
    }
}

/// Whether the segments are in order, inside the file, and use up exactly the stored bytes.
fn check_map(map: &[Segment], size: u64, stored: u64) -> Option<()> {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for segment in map {
        if segment.offset < end {
            return None;
        }
        end = segment.offset.checked_add(segment.length)?;
        total += segment.length;
    }
    (end <= size && total == stored).then_some(())
}

#[cfg(test)]
mod tests;
