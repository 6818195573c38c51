//! Frames: a little-endian `u32` length and as many bytes of JSON, bounded by the receiver.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other side closed the connection between two frames.
    #[error("the connection was closed")]
    Closed,
    /// A frame is larger than its receiver takes.
    #[error("a message of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// The length that the frame's head says.
        length: usize,
        /// The receiver's limit.
        limit: usize,
    },
    /// A frame holds no such message.
    #[error("a message that cannot be understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Writes one message as a frame, with one write.
///
/// # Errors
/// [`FrameError::Io`], or [`FrameError::TooLarge`] for a message of 4 GiB.
pub fn write_frame<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    let head = u32::try_from(length)
        .map_err(|_| FrameError::TooLarge { length, limit: u32::MAX as usize })?;
    frame[..4].copy_from_slice(&head.to_le_bytes());
    to.write_all(&frame)?;
    Ok(())
}

/// Reads one frame of at most `limit` bytes from a blocking source; allocates only what has arrived.
///
/// # Errors
/// [`FrameError::Closed`] at the end of the connection between frames; the other kinds as they say.
pub fn read_frame<T: DeserializeOwned>(
    from: &mut impl Read,
    limit: usize,
) -> Result<T, FrameError> {
    let mut head = [0; 4];
    if let Err(error) = from.read_exact(&mut head) {
        return Err(if error.kind() == io::ErrorKind::UnexpectedEof {
            FrameError::Closed
        } else {
            error.into()
        });
    }
    let length = body_length(head, limit)?;
    let mut body = Vec::new();
    if from.take(length as u64).read_to_end(&mut body)? < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(serde_json::from_slice(&body)?)
}

fn body_length(head: [u8; 4], limit: usize) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(head) as usize;
    if length > limit { Err(FrameError::TooLarge { length, limit }) } else { Ok(length) }
}

/// Collects frames from a source that does not block.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    limit: usize,
}

impl Reader {
    /// A reader of frames of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), limit }
    }

    /// The bytes that are not yet a message, for a caller that reads into their end by itself.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Reads what is there, at most `64 KiB`, into the buffer. False at the end of the connection.
    ///
    /// # Errors
    /// That of the read; `WouldBlock` is `Ok(true)`.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<bool> {
        let mut chunk = [0; 64 << 10];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.buffer.extend_from_slice(&chunk[..n]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next whole message out of the buffer; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`], and the connection is of no more use then; or [`FrameError::Malformed`], and the frame is
    /// gone.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        Ok(self.next_frame(|body| serde_json::from_slice(body))?.transpose()?)
    }

    /// As [`Reader::next_message`], for a receiver that reads the frame's body by itself.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`]; the connection is of no more use then.
    pub fn next_frame<R>(
        &mut self,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let end = 4 + body_length(*head, self.limit)?;
        let Some(body) = self.buffer.get(4..end) else { return Ok(None) };
        let result = read(body);
        self.buffer.drain(..end);
        Ok(Some(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire_in_any_pieces() {
        let mut wire = Vec::new();
        write_frame(&mut wire, &"first").unwrap();
        write_frame(&mut wire, &"second").unwrap();
        let mut reader = Reader::new(64);
        let mut got = Vec::new();
        for byte in wire {
            assert!(reader.fill(&mut [byte].as_slice()).unwrap());
            got.extend(reader.next_message::<String>().unwrap());
        }
        assert_eq!(got, ["first", "second"]);
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut wire: &[u8] = &[0xff, 0xff, 0xff, 0xff];
        assert!(matches!(
            read_frame::<String>(&mut wire, 64),
            Err(FrameError::TooLarge { length: 0xffff_ffff, limit: 64 })
        ));
        let mut reader = Reader::new(64);
        reader.fill(&mut [65, 0, 0, 0].as_slice()).unwrap();
        assert!(matches!(
            reader.next_message::<String>(),
            Err(FrameError::TooLarge { length: 65, limit: 64 })
        ));
    }

    #[test]
    fn a_cut_frame_is_not_a_message() {
        let mut wire = Vec::new();
        write_frame(&mut wire, &"text").unwrap();
        wire.pop();
        assert!(matches!(read_frame::<String>(&mut wire.as_slice(), 64), Err(FrameError::Io(_))));
        assert!(matches!(read_frame::<String>(&mut [].as_slice(), 64), Err(FrameError::Closed)));
    }
}
