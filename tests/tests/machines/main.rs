//! Containers in microVMs, seen from the command line. A boot is dear on a software KVM, so that each test asks much of one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod exits;
mod files;
mod killed;
mod processes;
mod refused;
mod streams;
mod terminal;
mod view;
mod writes;

use bulkhead_tests::{
    harness::{Host, layout_with_probe},
    image::Name,
};

/// A host that can run microVMs with the busybox image in its store; `None` where this machine cannot.
fn host_with_busybox() -> Option<Host> {
    let host = Host::with_kvm()?;
    host.import("busybox", &layout_with_probe(Name::Busybox));
    Some(host)
}
