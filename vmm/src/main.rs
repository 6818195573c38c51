//! The `bulkhead-vmm` program.

fn main() {}
