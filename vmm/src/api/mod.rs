//! What another program says to a VMM and hears from it: the configuration, and messages over a Unix socket.
//!
//! A VMM is one process for one machine. Its owner starts it with one end of a socket pair as its standard input
//! (`bulkhead-vmm --owner-fd 0`), sends [`Configuration`](VmConfig) as the first line, and keeps the other end: when the
//! owner closes it, by will or by death, the VMM ends. Every message is one line of JSON.

mod client;
mod config;
mod control;
mod descriptors;
mod nic;
mod tree;

pub use client::{ClientError, Messages, Vmm};
pub use config::{
    Backend, Cache, Disk, SerialOutput, Share, ShareEntry, SnapshotFiles, VmConfig, Vsock,
};
pub use control::{
    Counters, End, FromVmm, Mark, Medium, Request, RequestKind, Response, Slot, ToVmm,
};
pub use descriptors::{receive, send};
pub use nic::{Mac, MacError, Nic};
pub use tree::mount_of;
#[cfg(feature = "machine")]
pub(crate) use tree::{clone as clone_tree, restrict};

/// The version of the files that [`RequestKind::Snapshot`] writes: a machine is restored only by a VMM of the same. Each change of what is saved
/// or of its form is a new version.
pub const SNAPSHOT_VERSION: u32 = 2;

/// The longest line, in bytes, that either side accepts.
pub const MAX_LINE: usize = 1 << 20;

/// The most descriptors that come with one request.
pub const MAX_DESCRIPTORS: usize = 1024;
