//! `containerd-shim-bulkhead-v2`: the shim by which containerd runs containers with Bulkhead (containerd, `runtime/v2/README.md`).
//!
//! containerd calls it with `start`, which leaves the shim's own process behind, and with `delete`, which removes what a killed one left.
//! The shim serves the task service on a socket: [`service`] is that, [`task`] a container with its processes, [`helper`] the programs
//! of one thread that make them.

mod address;
mod args;
mod delete;
mod events;
mod exits;
mod handover;
mod helper;
mod info;
mod log;
mod metrics;
mod oom;
mod options;
mod owners;
mod refusal;
mod root;
mod serve;
mod service;
mod start;
mod stdio;
mod task;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use args::{Action, Args};

fn main() -> ExitCode {
    let mut words = env::args_os();
    let program = words.next().unwrap_or_default();
    let done = match Args::parse(words) {
        Ok(args) => match args.action {
            Action::Start => start::start(&args, &program),
            Action::Delete => delete::delete(&args),
            Action::Serve => serve::serve(&args, &program),
            Action::Info => info::info(program.as_ref()),
            Action::Version => info::version(),
            Action::Helper => helper::run(&args),
        },
        Err(refusal) => Err(refusal),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            // containerd shows it; with standard error closed the exit code has to do.
            let _ = writeln!(io::stderr(), "containerd-shim-bulkhead-v2: {refusal}");
            ExitCode::FAILURE
        }
    }
}
