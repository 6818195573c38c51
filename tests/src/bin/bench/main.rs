//! `make bench`: prints the project's figures, each with how it was got. What is compared was measured in the same run.

mod facts;
mod guest;
mod import;
mod peers;
mod report;
mod start;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Measures what the README reports. Takes a few minutes on a software KVM.
#[derive(Parser)]
struct Arguments {
    /// Also write everything, each sample included, as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each machine is booted; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
}

/// Why a figure could not be got, in one line.
type Reason = String;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = report::Report::new(facts::facts());
    start::measure(&mut report, arguments.runs);
    peers::compare(&mut report, arguments.runs);
    import::measure(&mut report, arguments.runs);
    print!("{report}");
    if let Some(path) = arguments.json
        && let Err(error) = std::fs::write(&path, report.json().to_string())
    {
        eprintln!("bench: {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    if report.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
