//! What a keeper and those who are attached to its container say to each other, over a Unix socket: frames of a kind, a length and a payload.
//!
//! ```text
//! kind u8 | length u32, little-endian | payload
//! ```

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The longest payload.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// So many bytes of input may be on their way before the keeper says that the container took them.
pub const INPUT_WINDOW: usize = 128 << 10;
const HEAD: usize = 5;

/// What somebody attached says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToKeeper {
    /// What he wants; always first.
    Hello(Hello),
    /// Bytes for standard input.
    Input(Vec<u8>),
    /// No more bytes will come.
    InputEnd,
    /// The terminal's size: rows, columns.
    Resize(u16, u16),
    /// A signal for the container's process.
    Signal(i32),
    /// The container is to be stopped, even if nobody is attached any more.
    Stop,
}

/// What somebody wants who attaches himself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The container's output from now on.
    pub output: bool,
    /// To give it input.
    pub input: bool,
}

/// What a keeper says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromKeeper {
    /// It is the container's keeper and begins to make it.
    Claimed(Claimed),
    /// The container's program runs.
    Started(Started),
    /// It does not, and will not.
    Failed(Failed),
    /// From standard output or the terminal.
    Output(Vec<u8>),
    /// From standard error.
    Error(Vec<u8>),
    /// The container took so many bytes of input.
    Taken(u32),
    /// Something for a person's eyes.
    Warning(String),
    /// Why the start takes a while, for a person who watches it.
    Note(String),
    /// The container has ended and everything of it that goes with its end has gone. Always last.
    Ended(Ended),
}

/// [`FromKeeper::Claimed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The keeper's pid.
    pub keeper: u32,
}

/// [`FromKeeper::Started`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The steps of the start so far.
    pub timeline: serde_json::Value,
}

/// [`FromKeeper::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The exit code for `run`: 125, 126 or 127.
    pub code: u8,
    /// One line.
    pub message: String,
}

/// [`FromKeeper::Ended`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The exit code; 128 and the signal's number when a signal ended the program.
    pub code: u8,
    /// The container ran out of memory.
    pub oom_killed: bool,
    /// It ended without its program's doing.
    pub lost: bool,
    /// What went wrong with its end.
    pub error: Option<String>,
    /// All steps.
    pub timeline: serde_json::Value,
}

/// A message that goes into frames.
pub trait Frame: Sized {
    /// Its kind and payload.
    fn parts(&self) -> (u8, Vec<u8>);
    /// The message of this kind and payload; `None` if there is none.
    fn from_parts(kind: u8, payload: &[u8]) -> Option<Self>;

    /// The bytes that are sent.
    fn encode(&self) -> Vec<u8> {
        let (kind, payload) = self.parts();
        let mut bytes = Vec::with_capacity(HEAD + payload.len());
        bytes.push(kind);
        // What the other side would refuse is never made: reads are at most MAX_PAYLOAD, the rest is short.
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Sends it.
    ///
    /// # Errors
    /// That of write(2).
    fn send(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.encode())
    }

    /// Waits for one. `None` when the other side has closed the connection.
    ///
    /// # Errors
    /// That of read(2), or a frame that is none.
    fn receive(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; HEAD];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Self::from_parts(kind, &payload).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // The types of this module have no keys that could not be written.
    serde_json::to_vec(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}

impl Frame for ToKeeper {
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Hello(hello) => (b'h', json(hello)),
            Self::Input(bytes) => (b'i', bytes.clone()),
            Self::InputEnd => (b'e', Vec::new()),
            Self::Resize(rows, columns) => (b'r', json(&(rows, columns))),
            Self::Signal(signal) => (b's', json(signal)),
            Self::Stop => (b'q', Vec::new()),
        }
    }

    fn from_parts(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match kind {
            b'h' => Self::Hello(parse(payload)?),
            b'i' => Self::Input(payload.to_vec()),
            b'e' => Self::InputEnd,
            b'r' => parse(payload).map(|(rows, columns)| Self::Resize(rows, columns))?,
            b's' => Self::Signal(parse(payload)?),
            b'q' => Self::Stop,
            _ => return None,
        })
    }
}

impl Frame for FromKeeper {
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Claimed(claimed) => (b'C', json(claimed)),
            Self::Started(started) => (b'S', json(started)),
            Self::Failed(failed) => (b'F', json(failed)),
            Self::Output(bytes) => (b'O', bytes.clone()),
            Self::Error(bytes) => (b'E', bytes.clone()),
            Self::Taken(count) => (b'T', json(count)),
            Self::Warning(text) => (b'W', text.clone().into_bytes()),
            Self::Note(text) => (b'N', text.clone().into_bytes()),
            Self::Ended(ended) => (b'X', json(ended)),
        }
    }

    fn from_parts(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match kind {
            b'C' => Self::Claimed(parse(payload)?),
            b'S' => Self::Started(parse(payload)?),
            b'F' => Self::Failed(parse(payload)?),
            b'O' => Self::Output(payload.to_vec()),
            b'E' => Self::Error(payload.to_vec()),
            b'T' => Self::Taken(parse(payload)?),
            b'W' => Self::Warning(String::from_utf8(payload.to_vec()).ok()?),
            b'N' => Self::Note(String::from_utf8(payload.to_vec()).ok()?),
            b'X' => Self::Ended(parse(payload)?),
            _ => return None,
        })
    }
}

/// Finds frames in what was read from a socket that does not block.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: VecDeque<u8>,
}

/// The other side sent what is no frame.
#[derive(Debug, PartialEq, Eq)]
pub struct NoFrame;

impl Decoder {
    /// Takes what was read.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// [`NoFrame`]; the connection is of no use any more.
    pub fn next_frame<F: Frame>(&mut self) -> Result<Option<F>, NoFrame> {
        let bytes = self.bytes.make_contiguous();
        let Some((&[kind, ref length @ ..], rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(NoFrame);
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = F::from_parts(kind, payload).ok_or(NoFrame)?;
        self.bytes.drain(..HEAD + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_through_in_pieces() {
        let frames = [
            ToKeeper::Hello(Hello { output: true, input: false }),
            ToKeeper::Input(vec![0, 255, 7]),
            ToKeeper::InputEnd,
            ToKeeper::Resize(24, 80),
            ToKeeper::Signal(15),
            ToKeeper::Stop,
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        for byte in &bytes {
            decoder.extend(&[*byte]);
            while let Some(frame) = decoder.next_frame::<ToKeeper>().unwrap() {
                got.push(frame);
            }
        }
        assert_eq!(got, frames);
        let mut reader = bytes.as_slice();
        for frame in frames {
            assert_eq!(ToKeeper::receive(&mut reader).unwrap(), Some(frame));
        }
        assert_eq!(ToKeeper::receive(&mut reader).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bad in [&b"?\0\0\0\0"[..], b"i\xff\xff\xff\xff", b"r\x01\0\0\0x"] {
            let mut decoder = Decoder::default();
            decoder.extend(bad);
            assert_eq!(decoder.next_frame::<ToKeeper>(), Err(NoFrame));
            assert!(ToKeeper::receive(&mut &*bad).is_err());
        }
    }
}
