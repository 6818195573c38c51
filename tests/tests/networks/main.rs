//! Networks of `bulkhead run` with the distribution's CNI plugins, one body for both isolations. All of it is in a network namespace of the
//! test's own, which is the host to `bulkhead`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod life;
mod refused;
mod stage;

use self::{
    life::{a_published_port, killed_keepers, the_default_network},
    refused::{plugins_that_fail, ports_and_addresses_that_others_have},
    stage::{Isolation, Stage},
};

/// Tests `host::NAME` and `vm::NAME` of each body.
macro_rules! isolations {
    ($($body:ident),* $(,)?) => {
        mod host {
            $(#[test]
            fn $body() {
                super::on(super::Isolation::Host, super::$body);
            })*
        }
        mod vm {
            $(#[test]
            fn $body() {
                super::on(super::Isolation::Vm, super::$body);
            })*
        }
    };
}

isolations!(
    a_published_port,
    killed_keepers,
    the_default_network,
    ports_and_addresses_that_others_have,
    plugins_that_fail,
);

/// Runs a body, and looks for what is left.
fn on(isolation: Isolation, body: fn(&Stage)) {
    if let Some(stage) = Stage::new(isolation) {
        body(&stage);
        stage.assert_nothing_left();
    }
}
