//! containerd of the distribution with the shim under test, with roots, state and sockets of its own, driven by `ctr` and, where that has no
//! command, by requests to the shim. `BULKHEAD_TEST_PEER=runc` proves the bodies with containerd's own shim.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

#[macro_use]
extern crate bulkhead_tests;

mod cri;
mod full;
mod killed;
mod life;
mod network;
mod refused;
mod registry;
mod row;
mod snapshots;
mod streams;
mod takeover;
