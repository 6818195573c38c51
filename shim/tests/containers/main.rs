//! The command line's containers on this host's kernel, where a start takes milliseconds: how they live, die and are told of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod copies;
mod deaths;
mod host;
mod output;
mod streams;
mod verbs;
