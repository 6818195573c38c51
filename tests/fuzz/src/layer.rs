//! An image's layer: becomes an EROFS image, or is refused; the store has no more and no less afterwards.
#![no_main]

use std::{cell::RefCell, fs};

use bulkhead_rootfs::{Source, Store};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

thread_local! {
    static PLACE: RefCell<Option<(tempfile::TempDir, Store)>> = const { RefCell::new(None) };
}

fuzz_target!(|layer: &[u8]| {
    PLACE.with_borrow_mut(|place| {
        let (dir, store) = place.get_or_insert_with(|| {
            let dir = tempfile::tempdir().expect("a directory");
            let store = Store::open(&dir.path().join("store")).expect("a store");
            (dir, store)
        });
        let archive = dir.path().join("image.tar");
        fs::write(&archive, docker_archive(layer)).expect("an archive");
        let source = Source::parse(&format!("docker-archive:{}", archive.display()));
        match store.import(&source.expect("it is there"), Some("x"), &()) {
            Ok(image) => {
                assert_eq!(store.list().expect("a list").len(), 1);
                store.remove(&image.id.to_string()).expect("it goes");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert!(store.list().expect("a list").is_empty());
    });
});

/// `docker save` of an image with this layer.
fn docker_archive(layer: &[u8]) -> Vec<u8> {
    let digest: String = Sha256::digest(layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = serde_json::json!([{
        "Config": "config.json", "RepoTags": ["x:latest"], "Layers": ["layer.tar"],
    }]);
    let mut archive = tar::Builder::new(Vec::new());
    let parts = [
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer.to_vec()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ];
    for (name, bytes) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes.as_slice()).expect("memory takes it");
    }
    archive.into_inner().expect("memory takes it")
}
