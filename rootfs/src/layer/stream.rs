//! A layer's blob as an uncompressed stream: one thread reads, hashes and decompresses, the caller's thread takes buffers from it.
//! The compression is told from the first bytes, as docker and containerd do, since media types are known to lie.

use std::{
    io::{self, BufRead, BufReader, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::error::LayerError;
use crate::{
    Digest,
    digest::HashingReader,
    limits,
    tar::{Input, TarError},
};

const BUFFER: usize = 256 << 10;
/// Buffers between the two threads.
const DEPTH: usize = 8;

/// A layer's blob and what it must turn out to be.
pub(crate) struct Blob {
    pub(crate) reader: Box<dyn Read + Send>,
    /// Digest of the blob as it is stored, when the source promises one.
    pub(crate) digest: Option<Digest>,
    /// Bytes of the blob, when the source promises them.
    pub(crate) size: Option<u64>,
    /// Digest of the uncompressed layer, from the image's configuration.
    pub(crate) diff_id: Digest,
}

/// Runs `consume` on the uncompressed stream of `blob`; `progress` is told the bytes of the blob read so far. All digests are verified
/// before this returns, and a wrong digest is reported in preference to whatever else it caused.
pub(super) fn uncompressed<T>(
    blob: Blob,
    progress: &(dyn Fn(u64) + Sync),
    consume: impl FnOnce(&mut Stream) -> Result<T, LayerError>,
) -> Result<T, LayerError> {
    let Blob { reader, digest, size, diff_id } = blob;
    let mut raw = BufReader::with_capacity(
        BUFFER,
        HashingReader::new(Progress { reader, progress, bytes: 0 }),
    );
    let compression = Compression::sniff(&mut raw).map_err(LayerError::Read)?;
    // An uncompressed blob is its own uncompressed stream: one hash serves for both.
    let hash_stream = compression != Compression::None;
    let (sender, receiver) = sync_channel(DEPTH);
    let (recycle, recycled) = sync_channel(DEPTH);
    thread::scope(|scope| {
        let producer = scope.spawn(move || {
            let outcome = produce(&mut raw, compression, &sender, &recycled);
            if let Err(error) = outcome {
                // The other side may be gone, which is its own outcome.
                let _ = sender.send(Err(error));
            }
            drop(sender);
            // The blob's digest covers also what the decoder did not ask for.
            io::copy(&mut raw, &mut io::sink())?;
            let hashed = raw.into_inner();
            io::Result::Ok((hashed.count(), hashed.finish()))
        });
        let mut stream = Stream {
            receiver: Some(receiver),
            recycle,
            buffer: Vec::new(),
            position: 0,
            total: 0,
            hasher: hash_stream.then(Sha256::new),
            overlong: false,
        };
        let result = consume(&mut stream).and_then(|value| stream.drain().map(|()| value));
        let too_long = stream.overlong;
        let hasher = stream.hasher.take();
        drop(stream);
        let (bytes, actual) = match producer.join() {
            Ok(outcome) => outcome.map_err(LayerError::Read)?,
            Err(_) => return Err(LayerError::Read(io::Error::other("the decompressor failed"))),
        };
        let expected = digest.or((!hash_stream).then_some(diff_id));
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(LayerError::Digest { what: "blob", actual, expected });
        }
        if let Some(expected) = size.filter(|expected| *expected != bytes) {
            return Err(LayerError::Size { actual: bytes, expected });
        }
        if too_long {
            return Err(LayerError::Tar(TarError::TooLong(limits::LAYER_STREAM)));
        }
        let value = result?;
        let actual = hasher.map_or(actual, Digest::finish);
        if actual != diff_id {
            return Err(LayerError::Digest {
                what: "uncompressed layer",
                actual,
                expected: diff_id,
            });
        }
        Ok(value)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn sniff(raw: &mut impl BufRead) -> io::Result<Self> {
        let start = raw.fill_buf()?;
        Ok(match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        })
    }
}

type Buffers = SyncSender<io::Result<Vec<u8>>>;

fn produce(
    raw: &mut impl BufRead,
    compression: Compression,
    to: &Buffers,
    recycled: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    match compression {
        Compression::None => pump(raw, to, recycled),
        Compression::Gzip => pump(&mut MultiGzDecoder::new(raw), to, recycled),
        Compression::Zstd => {
            pump(&mut zstd::stream::read::Decoder::with_buffer(raw)?, to, recycled)
        }
    }
}

fn pump(from: &mut impl Read, to: &Buffers, recycled: &Receiver<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut buffer = recycled.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match from.read(room) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        buffer.truncate(filled);
        if filled == 0 || to.send(Ok(buffer)).is_err() {
            return Ok(());
        }
    }
}

/// The uncompressed stream.
pub(super) struct Stream {
    receiver: Option<Receiver<io::Result<Vec<u8>>>>,
    recycle: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    position: usize,
    total: u64,
    hasher: Option<Sha256>,
    overlong: bool,
}

impl Stream {
    /// Reads to the end, for the digest's sake.
    fn drain(&mut self) -> Result<(), LayerError> {
        loop {
            let rest = self.fill_buf().map_err(|e| LayerError::Tar(TarError::Read(e)))?.len();
            if rest == 0 {
                return Ok(());
            }
            self.consume(rest);
        }
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position >= self.buffer.len()
            && let Some(receiver) = &self.receiver
        {
            match receiver.recv() {
                Ok(Ok(buffer)) => {
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&buffer);
                    }
                    self.total += buffer.len() as u64;
                    self.overlong = self.total > limits::LAYER_STREAM;
                    // A full recycling queue only means that this buffer is freed.
                    let _ = self.recycle.try_send(std::mem::replace(&mut self.buffer, buffer));
                    self.position = 0;
                }
                Ok(Err(error)) => {
                    self.receiver = None;
                    return Err(error);
                }
                Err(_) => {
                    // The producer is done: the end of the stream, and no bytes are left of the last buffer.
                    self.receiver = None;
                }
            }
            if self.overlong {
                self.receiver = None;
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        Ok(self.buffer.get(self.position..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), available.get(..n)) {
            to.copy_from_slice(from);
        }
        self.consume(n);
        Ok(n)
    }
}

impl Input for Stream {}

struct Progress<'a> {
    reader: Box<dyn Read + Send>,
    progress: &'a (dyn Fn(u64) + Sync),
    bytes: u64,
}

impl Read for Progress<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.bytes += n as u64;
        (self.progress)(self.bytes);
        Ok(n)
    }
}
