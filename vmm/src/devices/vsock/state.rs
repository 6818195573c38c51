//! What is saved of the socket device.

use serde::{Deserialize, Serialize};

use crate::devices::virtio::{RestoreError, Version};

/// The socket device as its driver knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// Of this type.
    pub version: Version<1>,
    /// The guest's context id, which it keeps.
    pub cid: u32,
}

impl VsockState {
    /// Whether this device can take the place of `saved`.
    pub(super) fn check(&self, saved: &Self) -> Result<(), RestoreError> {
        if saved.cid == self.cid {
            return Ok(());
        }
        let (saved, here) = (saved.cid.to_string(), self.cid.to_string());
        Err(RestoreError::Differs { device: "vsock", what: "context id", saved, here })
    }
}
