//! The one place that names the guest-memory crate's types, so that another version of it is a small change.

pub use vm_memory::{Bytes, GuestAddress, GuestMemory as GuestMemoryTrait};

/// The guest's memory; cloning it shares it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
