//! `bulkhead bench`: measures, and shows what was measured.

use std::{io, time::Duration};

use crate::{
    bench::{BenchError, html, json, report::Report, startup, text},
    cli::{BenchCommand, OutputArgs, StartupArgs},
};

/// Does what the command line says.
pub(super) fn bench(command: &BenchCommand) -> Result<u8, BenchError> {
    match command {
        BenchCommand::Startup(args) => {
            let report = startup::run(&startup_options(args))?;
            show(&report, &args.output)?;
        }
        BenchCommand::Show(args) => {
            let report = json::load(&args.report)?;
            show(&report, &OutputArgs { json: None, html: args.html.clone() })?;
        }
    }
    Ok(0)
}

fn startup_options(args: &StartupArgs) -> startup::Options {
    startup::Options {
        image: args.image.clone(),
        command: args.command.clone(),
        runs: args.runs,
        warm_up: args.warm_up,
        memory_runs: args.memory_runs,
        modes: args.mode.clone(),
        peers: args.peer.clone(),
        at_once: args.at_once.clone(),
        limit: Duration::from_secs(args.timeout),
    }
}

/// Keeps a report where it is wanted, then shows it.
fn show(report: &Report, output: &OutputArgs) -> Result<(), BenchError> {
    if let Some(path) = &output.json {
        json::save(report, path)?;
    }
    if let Some(path) = &output.html {
        html::save(report, path)?;
    }
    text::write(report, &mut io::stdout().lock()).map_err(BenchError::Output)
}
