//! What the integration tests and benchmarks share: images made from packages, the tree an image stands for, and a
//! harness that runs the `bulkhead` command line and looks for what it leaves behind.

pub mod harness;
pub mod image;
