//! Runs the `bulkhead` command line as a user would, on a store and state of its own. A harness panics: that fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

pub mod containerd;
mod host;
mod images;
mod leftovers;
mod namespace;
pub mod oci;
mod outcome;
mod programs;
mod pty;
mod registry;
mod running;
mod task;

pub use host::{Host, available_kib};
pub use images::{image_with_probe, layout_with_probe, write_archive};
pub use namespace::Namespace;
pub use outcome::Outcome;
pub use programs::{binary, guest_kernel, kvm_missing, probe, templates};
pub use pty::Terminal;
pub use registry::Registry;
pub use running::{Running, end_daemon, own_memory, signal_process};
pub use task::Shim;
