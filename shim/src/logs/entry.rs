//! One entry of a log, and its JSON.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
    /// The keeper's own words about the log.
    Keeper,
}

/// One entry: a line, or a part of a line that is longer than an entry or was written in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it was read from the container.
    pub time: Timestamp,
    /// Where it was written to.
    pub stream: Stream,
    /// The bytes as they were written.
    pub bytes: Cow<'a, [u8]>,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: Stream,
    time: Timestamp,
    #[serde(borrow, default)]
    bytes: Option<Cow<'a, str>>,
}

impl Entry<'_> {
    /// Whether the line ends here.
    #[must_use]
    pub fn ends_line(&self) -> bool {
        self.bytes.last() == Some(&b'\n')
    }

    /// Appends the line of JSON that this is in the file.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let (log, bytes) = match std::str::from_utf8(&self.bytes) {
            Ok(text) => (Cow::Borrowed(text), None),
            Err(_) => {
                (String::from_utf8_lossy(&self.bytes), Some(BASE64_STANDARD.encode(&self.bytes)))
            }
        };
        // The time of an entry always has nine digits, so that texts compare as times do.
        let time = format!("{:.9}", self.time);
        to.extend_from_slice(b"{\"log\":");
        // Writing strings to memory cannot fail.
        let _ = serde_json::to_writer(&mut *to, &log);
        to.extend_from_slice(b",\"stream\":");
        let _ = serde_json::to_writer(&mut *to, &self.stream);
        to.extend_from_slice(b",\"time\":");
        let _ = serde_json::to_writer(&mut *to, &time);
        if let Some(bytes) = bytes {
            to.extend_from_slice(b",\"bytes\":");
            let _ = serde_json::to_writer(&mut *to, &bytes);
        }
        to.extend_from_slice(b"}\n");
    }

    /// Reads a line of the file, with or without its newline. `None` if it is damaged.
    #[must_use]
    pub fn decode(line: &[u8]) -> Option<Entry<'static>> {
        let written: Written<'_> = serde_json::from_slice(line).ok()?;
        let bytes = match written.bytes {
            Some(bytes) => BASE64_STANDARD.decode(bytes.as_bytes()).ok()?,
            None => written.log.into_owned().into_bytes(),
        };
        Some(Entry { time: written.time, stream: written.stream, bytes: bytes.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> String {
        let entry = Entry {
            time: Timestamp::new(1_700_000_000, 5).unwrap(),
            stream: Stream::Stderr,
            bytes: bytes.into(),
        };
        let mut out = Vec::new();
        entry.encode(&mut out);
        assert_eq!(Entry::decode(&out).unwrap(), entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_dockers_json() {
        assert_eq!(
            line(b"a \"quoted\"\tline\n"),
            "{\"log\":\"a \\\"quoted\\\"\\tline\\n\",\"stream\":\"stderr\",\"time\":\"2023-11-14T22:13:20.000000005Z\"}\n"
        );
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert!(line(&all).contains("\"bytes\":\""));
        assert!(!line("ünïcode \u{0} \u{2028}".as_bytes()).contains("bytes"));
        for cut in 1..4 {
            line(&"🚢".as_bytes()[..cut]);
        }
    }

    #[test]
    fn damaged_lines_are_none() {
        for bad in
            ["", "{", "{\"log\":\"x\"}", "{\"log\":\"x\",\"stream\":\"stdout\",\"time\":\"now\"}"]
        {
            assert_eq!(Entry::decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
