//! The `bulkhead` program.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use bulkhead::{cli::Cli, commands, timeline};
use clap::Parser;

fn main() -> ExitCode {
    let started = timeline::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 125 } else { 0 };
            // There is nobody left to tell.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let done = commands::run_command(&cli.command, started);
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // With standard error closed the exit code has to do.
            let _ = writeln!(io::stderr(), "bulkhead: {}", commands::chain(&error));
            ExitCode::from(cli.command.failure_code(&error))
        }
    }
}
