//! `make bench`: prints the project's figures, each with how it was got. What is compared was measured in the same run.

mod cgroups;
mod containerd;
mod facts;
mod guest;
mod import;
mod lifecycle;
mod peers;
mod proc;
mod report;
mod start;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};

/// Measures what the README reports. Takes a few minutes on a software KVM.
#[derive(Parser)]
struct Arguments {
    /// What to measure; without it, everything
    #[arg(value_name = "PART")]
    parts: Vec<Part>,
    /// Also write everything, each sample included, as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each machine is booted; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// How often each runtime makes, starts and deletes a plain container
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Print the system calls that the agent makes for a container and for an exec, one a line
    #[arg(long)]
    trace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Containers in microVMs, and the same guest under QEMU
    Machines,
    /// Images into the store
    Import,
    /// Plain containers beside runc and crun, system calls, memory, shared files
    Lifecycle,
    /// Containers of containerd, beside its own shim
    Containerd,
}

/// Why a figure could not be got, in one line.
type Reason = String;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let mut report = report::Report::new(facts::facts());
    if wanted(Part::Machines) {
        start::measure(&mut report, arguments.runs);
        peers::compare(&mut report, arguments.runs);
    }
    if wanted(Part::Import) {
        import::measure(&mut report, arguments.runs);
    }
    if wanted(Part::Lifecycle) {
        lifecycle::measure(&mut report, arguments.runs, arguments.rounds, arguments.trace);
    }
    if wanted(Part::Containerd) {
        containerd::measure(&mut report, arguments.rounds);
    }
    print!("{report}");
    if let Some(path) = arguments.json
        && let Err(error) = std::fs::write(&path, report.json().to_string())
    {
        eprintln!("bench: {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    if report.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
