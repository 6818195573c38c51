//! The `bulkhead-vmm` program.

use std::process::ExitCode;

use bulkhead_vmm::{cli::Cli, notices, program};
use clap::Parser;

fn main() -> ExitCode {
    let started = notices::monotonic_ns();
    // One heap for all threads: they allocate little, and each heap of its own is memory that every machine has.
    // SAFETY: the call sets a parameter of the allocator, and no other thread runs.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    match Cli::try_parse() {
        Ok(cli) => program::run(&cli, started),
        Err(error) => {
            // Where standard error is closed nobody can be told.
            let _ = error.print();
            // Not clap's own 2, which says here that the guest's kernel panicked.
            ExitCode::from(u8::from(error.use_stderr()))
        }
    }
}
