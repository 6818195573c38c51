//! podman, docker and buildah of the distribution with the runtime under test, each with storage and sockets of its own.
//! `BULKHEAD_TEST_PEER=runc` proves the bodies with runc.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

#[macro_use]
extern crate bulkhead_tests;

mod buildah;
mod docker;
mod network;
mod podman;
mod shared;
