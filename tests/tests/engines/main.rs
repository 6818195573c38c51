//! podman, docker and buildah of the distribution with the runtime under test, each with storage and sockets of its own.
//! `BULKHEAD_TEST_PEER=runc` proves the bodies with runc.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

/// Tests `host::NAME` and `vm::NAME` of each body.
macro_rules! isolations {
    ($($body:ident),* $(,)?) => {
        mod host {
            $(#[test]
            fn $body() {
                bulkhead_tests::harness::oci::on(bulkhead_tests::harness::oci::Isolation::Host, super::$body);
            })*
        }
        mod vm {
            $(#[test]
            fn $body() {
                bulkhead_tests::harness::oci::on(bulkhead_tests::harness::oci::Isolation::Vm, super::$body);
            })*
        }
    };
}

mod buildah;
mod docker;
mod network;
mod podman;
mod shared;
