//! The host's KVM: opening it, checking that it can do what is needed, finding out what kind it is, and its objects.

mod backend;
mod extended;
mod host;
mod stats;
mod vm;

pub use backend::{Detected, detect};
pub use extended::ExtendedState;
pub use host::{Host, KvmError};
pub use stats::Instructions;
pub use vm::Vm;
