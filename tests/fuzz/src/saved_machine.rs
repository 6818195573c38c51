//! A template's state file, whose checksum is right: decoded or refused, and what is decoded is what would be written.
#![no_main]

use bulkhead_vmm::{api::SNAPSHOT_VERSION, snapshot::SavedMachine};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|body: &[u8]| {
    let _ = SavedMachine::decode(body);
    let mut file = b"BLKHDVM\n".to_vec();
    file.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&(body.len() as u64).to_le_bytes());
    file.extend_from_slice(&Sha256::digest(body));
    file.extend_from_slice(body);
    match SavedMachine::decode(&file) {
        Ok(saved) => {
            let again = saved.encode().expect("what was read can be written");
            let again = SavedMachine::decode(&again).expect("what was written can be read");
            assert_eq!(format!("{saved:?}"), format!("{again:?}"));
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains("no saved machine") && !line.contains("checksum"), "{line}");
        }
    }
});
