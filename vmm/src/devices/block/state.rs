//! What is saved of a disk. Its bytes are not: they are in its files.

use serde::{Deserialize, Serialize};

use crate::devices::virtio::{RestoreError, Version};

/// A disk as its driver knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// Of this type.
    pub version: Version<1>,
    /// Its serial number.
    pub id: String,
    /// Whether it can be written.
    pub read_only: bool,
    /// Its size in sectors of 512 bytes; 0: a slot without a medium.
    pub sectors: u64,
}

impl BlockState {
    /// Whether this disk can take the place of `saved`: it is the same one, or fills a slot. True: it has another size.
    pub(super) fn check(&self, saved: &Self) -> Result<bool, RestoreError> {
        let differ = |what, saved: &dyn ToString, here: &dyn ToString| {
            let (saved, here) = (saved.to_string(), here.to_string());
            Err(RestoreError::Differs { device: "block", what, saved, here })
        };
        if saved.id != self.id {
            return differ("id", &saved.id.escape_default(), &self.id);
        }
        if saved.read_only != self.read_only {
            return differ("read-only bit", &saved.read_only, &self.read_only);
        }
        if saved.sectors != 0 && saved.sectors != self.sectors {
            return differ("number of sectors", &saved.sectors, &self.sectors);
        }
        Ok(saved.sectors != self.sectors)
    }
}
