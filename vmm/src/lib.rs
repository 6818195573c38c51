//! A minimal KVM virtual machine monitor: boots one Linux guest, serves its virtio devices, and says how it ended.
//! It knows nothing of containers, images or OCI.

pub mod api;
#[cfg(feature = "machine")]
pub mod devices;
#[cfg(feature = "machine")]
pub mod memory;
