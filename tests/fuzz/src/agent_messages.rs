//! What a guest's agent sends, in pieces of any size: messages or refusals, whatever the pieces are.
#![no_main]

use bulkhead_protocol::{FrameError, Message, Reader};
use libfuzzer_sys::fuzz_target;

/// A limit that an input can reach.
const LIMIT: usize = 1 << 10;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let whole = read([bytes]);
    assert_eq!(whole, read(bytes.chunks(usize::from(piece).max(1))));
});

/// All that is read, up to the end of the connection or what makes it useless.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut reader = Reader::new(LIMIT);
    let mut seen = Vec::new();
    for piece in pieces {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.next_message::<Message>() {
                Ok(Some(message)) => {
                    // What is said can be said again.
                    let text = serde_json::to_string(&message).expect("a message has a text");
                    serde_json::from_str::<Message>(&text).expect("and the text is a message");
                    seen.push(text);
                }
                Ok(None) => break,
                Err(FrameError::TooLarge { length, limit }) => {
                    assert!(length > limit);
                    return seen;
                }
                Err(error) => seen.push(error.to_string()),
            }
        }
    }
    seen
}
