//! Isolation by a microVM: a container whose processes run behind a kernel of their own.

mod machine;
pub mod rewrite;

pub use machine::{Machine, StartError, Vm};
