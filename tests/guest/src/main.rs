//! The probe: what tests run inside a container. Every result is a line on standard output.

mod calls;
mod costs;
mod files;
mod init;
mod look;
mod memory;
mod terminal;
mod tree;
mod unique;
mod vectors;

use std::{env, process::ExitCode};

const USAGE: &str = "usage: probe tree ROOT | vectors PROCESSES ROUNDS | vector-worker SEED ROUNDS | \
                     both-cpus | hog MIB | terminal | look [WHAT…] | calls NAME… | files DIRECTORY | \
                     count DIRECTORY | many DIRECTORY COUNT | unique";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let done = match words.as_slice() {
        _ if env::args_os().next().is_some_and(|name| name == "/bench-init") => init::run(),
        ["tree", root] => tree::print(root),
        ["vectors", processes, rounds] => {
            number(processes).and_then(|processes| vectors::run(processes, rounds))
        }
        ["vector-worker", seed, rounds] => number(seed)
            .and_then(|seed| number(rounds).and_then(|rounds| vectors::worker(seed, rounds))),
        ["both-cpus"] => vectors::both_cpus(),
        ["hog", mib] => number(mib).and_then(memory::hog),
        ["look", wanted @ ..] => look::print(wanted),
        ["calls", names @ ..] => calls::run(names),
        ["files", directory] => files::check(directory),
        ["count", directory] => files::count(directory),
        ["many", directory, count] => number(count).and_then(|count| files::many(directory, count)),
        ["unique"] => unique::print(),
        ["terminal"] => terminal::describe(),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("probe: {reason}");
            ExitCode::FAILURE
        }
    }
}
