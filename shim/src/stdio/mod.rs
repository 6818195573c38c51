//! This process's standard input and output, terminal and signals, joined to a container's.

pub mod signals;
mod terminal;

pub use terminal::{RawMode, window_size};
