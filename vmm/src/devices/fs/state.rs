//! What is saved of a share. What it serves is not: a machine that goes on from a saved one may be given other entries.

use serde::{Deserialize, Serialize};

use crate::devices::virtio::{RestoreError, Version};

/// A share as its driver knows it. There is nothing of a session, mounted or not: one in which the guest knows more than the
/// share's root is not saved, and the root is the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FsState {
    /// Of this type.
    pub version: Version<1>,
    /// By which the guest mounts it.
    pub tag: String,
}

impl FsState {
    /// Whether this share can take the place of `saved`.
    pub(super) fn check(&self, saved: &Self) -> Result<(), RestoreError> {
        if saved.tag == self.tag {
            return Ok(());
        }
        let (saved, here) = (saved.tag.escape_default().to_string(), self.tag.clone());
        Err(RestoreError::Differs { device: "file system", what: "tag", saved, here })
    }
}
