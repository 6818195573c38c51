//! Sweeping: what no image needs, and what killed or failed imports left, goes when nobody is at work in the store.

use std::{collections::HashSet, fs, path::Path, thread, time::Duration};

use super::{Lock, Store, StoreError, entries, image::Record};
use crate::Digest;

impl Store {
    /// Removes what no image needs: layers, unfinished imports, lock files. Waits until no import is running.
    ///
    /// # Errors
    /// A damaged or unreadable store.
    pub fn collect_garbage(&self) -> Result<(), StoreError> {
        let path = self.root.join("lock");
        let _exclusive = Lock::exclusive(&path).map_err(StoreError::io("lock", &path))?;
        self.sweep()
    }

    /// Sweeps if there is anything in `tmp` and nobody else is at work.
    pub(super) fn sweep_leftovers(&self) -> Result<(), StoreError> {
        if !is_empty(&self.tmp())? {
            self.try_sweep()?;
        }
        Ok(())
    }

    /// Sweeps, or leaves word in `tmp` that it is to be done: by whoever opens the store or ends an import next.
    pub(super) fn sweep_soon(&self) -> Result<(), StoreError> {
        let note = self.tmp().join("sweep");
        fs::write(&note, "").map_err(StoreError::io("write", &note))?;
        // A process that is just being started may hold a copy of a lock that was given back, until it has become its own program.
        for _ in 0..20 {
            if self.try_sweep()? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Sweeps unless somebody else is at work; returns whether it did.
    pub(crate) fn try_sweep(&self) -> Result<bool, StoreError> {
        let path = self.root.join("lock");
        match Lock::try_exclusive(&path).map_err(StoreError::io("lock", &path))? {
            Some(_exclusive) => self.sweep().map(|()| true),
            None => Ok(false),
        }
    }

    fn sweep(&self) -> Result<(), StoreError> {
        let mut needed = HashSet::new();
        let ids = self.image_ids()?;
        for id in &ids {
            needed.extend(Record::load(&self.image_path(*id))?.layers.iter().map(Digest::hex));
        }
        self.sweep_snapshots()?;
        for directory in ["layers", "tmp", "locks"] {
            let directory = self.root.join(directory);
            for name in entries(&directory)? {
                if directory.ends_with("layers") && needed.contains(&name) {
                    continue;
                }
                let path = directory.join(name);
                let removed =
                    if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn is_empty(directory: &Path) -> Result<bool, StoreError> {
    Ok(fs::read_dir(directory).map_err(StoreError::io("read", directory))?.next().is_none())
}
