//! The OCI command line and the runtime specification, each test with one body for both isolations. A boot is dear on a
//! software KVM, so that each body asks much of few containers. `BULKHEAD_TEST_PEER=runc` proves the bodies with runc.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

#[macro_use]
extern crate bulkhead_tests;

mod events;
mod exec;
mod hooks;
mod killed;
mod mounts;
mod namespaces;
mod network;
mod process;
mod refused;
mod resources;
mod seccomp;
mod signals;
mod states;
mod terminal;
