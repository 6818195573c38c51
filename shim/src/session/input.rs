//! Standard input on its way to the keeper, no more at once than the keeper takes, and the keys that leave a container alone.

use std::{
    io::{self, Read},
    sync::{Condvar, Mutex, PoisonError},
};

use crate::keeper::frames::{INPUT_WINDOW, MAX_PAYLOAD, ToKeeper};

/// Ctrl-P and then Ctrl-Q, as docker has it.
const DETACH: [u8; 2] = [0x10, 0x11];

/// How many bytes may still be sent.
#[derive(Debug)]
pub(super) struct Credit {
    left: Mutex<usize>,
    given: Condvar,
}

impl Default for Credit {
    fn default() -> Self {
        Self { left: Mutex::new(INPUT_WINDOW), given: Condvar::new() }
    }
}

impl Credit {
    pub(super) fn give(&self, count: usize) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) += count;
        self.given.notify_one();
    }

    fn take(&self, count: usize) {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self
            .given
            .wait_while(left, |left| *left < count)
            .unwrap_or_else(PoisonError::into_inner);
        *left -= count;
    }
}

/// Sends what `from` has until it ends, or until `send` says no. True: the detach keys were pressed.
pub(super) fn forward(
    from: &mut impl Read,
    send: impl Fn(&ToKeeper) -> bool,
    credit: &Credit,
    detachable: bool,
) -> bool {
    let mut chunk = vec![0; MAX_PAYLOAD];
    let mut keys = Keys::default();
    loop {
        let bytes = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => chunk.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let (bytes, detach) = if detachable { keys.filter(bytes) } else { (bytes.to_vec(), false) };
        for part in bytes.chunks(MAX_PAYLOAD) {
            credit.take(part.len());
            if !send(&ToKeeper::Input(part.to_vec())) {
                return false;
            }
        }
        if detach {
            return true;
        }
    }
    send(&ToKeeper::InputEnd);
    false
}

/// Looks for the detach keys.
#[derive(Debug, Default)]
struct Keys {
    matched: usize,
}

impl Keys {
    /// What is left for the program, and whether the keys were complete. A key that may be the first of them waits for the next one.
    fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            if DETACH.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == DETACH.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(DETACH.get(..self.matched).unwrap_or_default());
            self.matched = usize::from(*byte == DETACH[0]);
            if self.matched == 0 {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn typed(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = Keys::default();
        let mut out = Vec::new();
        for piece in pieces {
            let (bytes, detach) = keys.filter(piece);
            out.extend(bytes);
            if detach {
                return (out, true);
            }
        }
        (out, false)
    }

    #[test]
    fn only_both_keys_detach() {
        assert_eq!(typed(&[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"a\x10", b"b\x11"]), (b"a\x10b\x11".to_vec(), false));
        assert_eq!(typed(&[b"\x10\x10", b"\x11x"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(&[b"\x10"]), (Vec::new(), false));
    }

    #[test]
    fn no_more_is_sent_than_is_taken() {
        let credit = Credit::default();
        let sent = RefCell::new(0);
        let data = vec![1; 5 * INPUT_WINDOW];
        let detached = forward(
            &mut data.as_slice(),
            |frame| {
                if let ToKeeper::Input(bytes) = frame {
                    *sent.borrow_mut() += bytes.len();
                    // As the keeper would.
                    credit.give(bytes.len());
                }
                true
            },
            &credit,
            false,
        );
        assert!(!detached);
        assert_eq!(*sent.borrow(), data.len());
        assert_eq!(*credit.left.lock().unwrap(), INPUT_WINDOW);
    }
}
