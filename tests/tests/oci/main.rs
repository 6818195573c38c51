//! The OCI command line and the runtime specification, each test with one body for both isolations. A boot is dear on a
//! software KVM, so that each body asks much of few containers. `BULKHEAD_TEST_PEER=runc` proves the bodies with runc.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

/// Tests `host::NAME` and `vm::NAME` of the bodies of each list.
macro_rules! isolations {
    (host: $($host:ident),*; vm: $($vm:ident),* $(,)?) => {
        mod host {
            $(#[test]
            fn $host() {
                bulkhead_tests::harness::oci::on(bulkhead_tests::harness::oci::Isolation::Host, super::$host);
            })*
        }
        mod vm {
            $(#[test]
            fn $vm() {
                bulkhead_tests::harness::oci::on(bulkhead_tests::harness::oci::Isolation::Vm, super::$vm);
            })*
        }
    };
}

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
