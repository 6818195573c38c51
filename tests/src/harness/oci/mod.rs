//! An OCI runtime under test: its command line, bundles, terminals, and what it must not leave behind. Tests are written against
//! the runtime specification and run with `bulkhead-oci` in both isolations; with `BULKHEAD_TEST_PEER=runc` (or `crun`) the
//! tests of host isolation run with that runtime instead, which proves the tests themselves.

mod bundle;
mod console;
mod leftovers;
mod rootfs;
mod runtime;
mod steps;

pub use bundle::{Bundle, CAPABILITIES, capability_bits};
pub use console::ConsoleSocket;
pub use rootfs::make_rootfs;
pub use runtime::{Isolation, Oci, Peer};
pub use steps::{Followed, Step, calls_of, log_of, parse, steps_of};

/// Runs a test's body with the runtime under test in this isolation, and looks for what is left afterwards. Says so where
/// this machine cannot run it.
#[track_caller]
pub fn on(isolation: Isolation, body: fn(&Oci)) {
    if let Some(oci) = Oci::new(isolation) {
        body(&oci);
        oci.assert_nothing_left();
    }
}

/// Tests `host::NAME` and `vm::NAME` of the bodies of each list, or of one list in both.
#[macro_export]
macro_rules! isolations {
    (host: $($host:ident),*; vm: $($vm:ident),* $(,)?) => {
        mod host {
            $(#[test]
            fn $host() {
                $crate::harness::oci::on($crate::harness::oci::Isolation::Host, super::$host);
            })*
        }
        mod vm {
            $(#[test]
            fn $vm() {
                $crate::harness::oci::on($crate::harness::oci::Isolation::Vm, super::$vm);
            })*
        }
    };
    ($($body:ident),* $(,)?) => { $crate::isolations!(host: $($body),*; vm: $($body),*); };
}
