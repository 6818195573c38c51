//! What the kernel says of a network namespace: becomes a network that the agent takes, or is refused with a line.
#![no_main]

use bulkhead::network::understand;
use bulkhead_protocol::Network;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|said: &[u8]| {
    match understand(said) {
        Ok((network, notes)) => {
            assert!(notes.len() <= 64, "{notes:?}");
            let text = serde_json::to_string(&network).expect("a network has a text");
            let again: Network = serde_json::from_str(&text).expect("and the text is one");
            again.check().expect("what was taken is taken again");
            assert_eq!(again, network);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
