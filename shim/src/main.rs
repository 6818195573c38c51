//! The `bulkhead` program.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use bulkhead::{
    cli::{Cli, Command},
    commands::{self, CommandError},
    timeline,
};
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
    let done = match cli.command {
        Command::Run(args) => commands::run(&args, started),
        Command::Image(command) => commands::image(&command).map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // With standard error closed the exit code has to do.
            let _ = writeln!(io::stderr(), "bulkhead: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// An error and what caused it, in one line, without saying anything twice.
fn chain(error: &CommandError) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}
