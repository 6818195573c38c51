//! This process's standard input and output, terminal and signals, joined to a container's.

mod pump;
pub mod signals;
mod terminal;

pub use pump::{feed, join};
pub use terminal::{RawMode, window_size};
