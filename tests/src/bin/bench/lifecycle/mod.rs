//! The life of a container: plain ones beside those of other runtimes, the agent's system calls, what a running microVM
//! needs beside its guest, and shared files.

mod agent;
mod bundle;
mod files;
mod memory;
mod runtimes;
mod usage;

use super::report::Report;

/// Measures; `runs` machines, `rounds` plain containers of each runtime. `trace` prints the agent's system calls.
pub(crate) fn measure(report: &mut Report, runs: u8, rounds: u16, trace: bool) {
    runtimes::compare(report, rounds);
    agent::count(report, trace);
    agent::steps(report);
    memory::measure(report, runs);
    files::compare(report);
}
