//! Networks of `bulkhead run` with the distribution's CNI plugins, one body for both isolations. All of it is in a network namespace of the
//! test's own, which is the host to `bulkhead`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod life;
mod refused;
mod stage;

use self::stage::{Isolation, Stage};

/// Tests `host::NAME` and `vm::NAME` of each body.
macro_rules! isolations {
    ($($body:path as $name:ident),* $(,)?) => {
        mod host {
            $(#[test]
            fn $name() {
                super::on(super::Isolation::Host, super::$body);
            })*
        }
        mod vm {
            $(#[test]
            fn $name() {
                super::on(super::Isolation::Vm, super::$body);
            })*
        }
    };
}

isolations!(
    life::a_published_port as a_published_port,
    life::killed_keepers as killed_keepers,
    life::the_default_network as the_default_network,
    refused::ports_and_addresses as ports_and_addresses_that_others_have,
    refused::plugins as plugins_that_fail,
);

/// Runs a body, and looks for what is left.
fn on(isolation: Isolation, body: fn(&Stage)) {
    if let Some(stage) = Stage::new(isolation) {
        body(&stage);
        stage.assert_nothing_left();
    }
}
