//! Messages to the kernel, many in one.

/// Bytes of a message's header (`struct nlmsghdr`).
pub(crate) const HEADER: usize = 16;

/// Requests that the kernel handles one after the other, whatever becomes of each.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    count: u32,
}

impl Batch {
    /// Adds a request of this type (`RTM_…`) with these flags (`NLM_F_…`) and this fixed part.
    pub fn message(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> Message<'_> {
        let start = self.bytes.len();
        self.last = start;
        let sequence = self.count;
        self.count += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        let mut message = Message { bytes: &mut self.bytes, start };
        message.close();
        message
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The messages as they are sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Has the kernel confirm the last one, and nothing but errors of the others.
    pub(crate) fn finish(&mut self) -> &[u8] {
        let flags = self.last + 6;
        if let Some(field) = self.bytes.get_mut(flags..flags + 2) {
            let now = u16::from_ne_bytes([field[0], field[1]]);
            field.copy_from_slice(&(now | ACK).to_ne_bytes());
        }
        &self.bytes
    }
}

/// `NLM_F_REQUEST`, `NLM_F_ACK`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;

/// The message of a [`Batch`] that is being written.
#[derive(Debug)]
pub struct Message<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl Message<'_> {
    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.end_attribute(at);
        self
    }

    /// Adds an attribute with a number.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute with text, which the kernel wants to end with a zero byte.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that consists of those which `inner` adds.
    pub fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Message<'_>)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        inner(&mut Message { bytes: self.bytes, start: self.start });
        self.end_attribute(at);
        self
    }

    fn end_attribute(&mut self, at: usize) {
        // An attribute holds less than 64 KiB; one that is longer is refused by the kernel.
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        if let Some(field) = self.bytes.get_mut(at..at + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.close();
    }

    fn close(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        if let Some(field) = self.bytes.get_mut(self.start..self.start + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }
}
