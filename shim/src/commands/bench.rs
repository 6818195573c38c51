//! `bulkhead bench`: measures, and shows what was measured.

use std::{io, time::Duration};

use crate::{
    bench::{
        BenchError, compare, density, html, io as bench_io, isolation, json, net, report::Report,
        startup, text,
    },
    cli::{BenchCommand, CompareArgs, DensityArgs, OutputArgs, StartupArgs},
};

/// Does what the command line says.
pub(super) fn bench(command: &BenchCommand) -> Result<u8, BenchError> {
    match command {
        BenchCommand::Startup(args) => {
            let report = startup::run(&startup_options(args))?;
            show(&report, &args.output)?;
        }
        BenchCommand::Density(args) => {
            let report = density::run(&density_options(args))?;
            show(&report, &args.output)?;
        }
        BenchCommand::Compare(args) => return compare(args),
        BenchCommand::Isolation(args) => {
            let report = isolation::run(&isolation::Options {
                image: args.image.clone(),
                isolations: args.isolation.clone(),
                profiles: args.profile.clone(),
                peers: args.peer.clone(),
                limit: Duration::from_secs(args.timeout),
            })?;
            show(&report, &args.output)?;
        }
        BenchCommand::Io(args) => {
            let report = bench_io::run(&bench_io::Options {
                image: args.image.clone(),
                isolations: args.isolation.clone(),
                rounds: args.rounds,
                bytes: args.size.0,
                count: args.count,
                limit: Duration::from_secs(args.timeout),
            })?;
            show(&report, &args.output)?;
        }
        BenchCommand::Net(args) => {
            let report = net::run(&net::Options {
                image: args.image.clone(),
                isolations: args.isolation.clone(),
                rounds: args.rounds,
                bytes: args.size.0,
                count: args.count,
                limit: Duration::from_secs(args.timeout),
            })?;
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

fn density_options(args: &DensityArgs) -> density::Options {
    density::Options {
        image: args.image.clone(),
        modes: args.mode.clone(),
        most: args.most,
        memory: args.limit_memory.map(|size| size.0),
        at_once: args.at_once,
        settle: Duration::from_secs(args.settle),
        watch: Duration::from_secs(args.watch),
        limit: Duration::from_secs(args.timeout),
    }
}

/// The exit code is 2 when something has become worse.
fn compare(args: &CompareArgs) -> Result<u8, BenchError> {
    let (old, new) = (json::load(&args.old)?, json::load(&args.new)?);
    let changes = compare::compare(&old, &new);
    compare::write(&old, &new, &changes, &mut io::stdout().lock()).map_err(BenchError::Output)?;
    let worse = changes.iter().any(|change| change.verdict == compare::Verdict::Worse);
    Ok(if worse { 2 } else { 0 })
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
