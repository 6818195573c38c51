//! What the integration tests share: archives and layouts built in memory, and a way to look at a finished disk.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test binary uses its own part")]

pub mod archive;
pub mod disk;
pub mod layout;
pub mod model;

use std::path::Path;

use bulkhead_rootfs::{Image, ImportError, Store};

/// A store in a temporary directory.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Fixture {
    pub fn new() -> Self {
        Self::at(&std::env::temp_dir())
    }

    /// In memory where that is possible, for tests that make hundreds of stores.
    pub fn quick() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::at(memory) } else { Self::new() }
    }

    fn at(parent: &Path) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    /// Writes a layout with these layers and imports it.
    pub fn import(&self, layers: &[Vec<u8>]) -> Result<Image, ImportError> {
        let layout = tempfile::tempdir_in(self.dir.path()).unwrap();
        let source = layout::Layout::new(layers).write(layout.path());
        self.store.import(&source, Some("test"), &())
    }

    /// Everything that the store holds beyond what an empty one does.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for directory in ["layers", "images", "tmp", "locks", "writable", "snapshots", "roots"] {
            for entry in std::fs::read_dir(self.dir.path().join("store").join(directory)).unwrap() {
                left.push(format!("{directory}/{}", entry.unwrap().file_name().to_string_lossy()));
            }
        }
        left
    }
}

/// The whole chain of an error, as the command line shows it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
