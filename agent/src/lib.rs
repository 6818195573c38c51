//! `bulkhead-agent`: PID 1 of a guest, or, with `--connect PATH`, a host process. It makes containers and forwards their
//! streams; one thread, one event loop.

mod answer;
mod boot;
mod control;
mod events;
mod fault;
mod limits;
mod link;
mod network;
mod pod;
mod ports;
mod processes;
mod relay;
mod relays;
mod resolver;
mod sealed;
mod server;
mod shares;
mod stdio;
mod template;

use std::{
    ffi::{OsStr, c_int},
    path::{Path, PathBuf},
};

use fault::Fault;
use link::Link;

const USAGE: &str = "usage: bulkhead-agent [--connect PATH]\n\
    Without an option it is the first process of a guest. With --connect it connects to the Unix sockets PATH_1024 and\n\
    PATH_1025 and makes its containers on this machine.\n";

/// Runs the agent with the arguments that follow the program's name; returns its exit code.
#[must_use]
pub fn run(words: &[&OsStr]) -> c_int {
    match words {
        [] if rustix::process::getpid().is_init() => guest(),
        [option, path] if *option == "--connect" => host(Path::new(path)),
        [option] if *option == "--version" => {
            say(concat!("bulkhead-agent ", env!("CARGO_PKG_VERSION"), "\n"));
            0
        }
        _ => {
            say(USAGE);
            2
        }
    }
}

fn guest() -> c_int {
    let fault = match boot::guest() {
        Ok(served) => match served.run() {
            Ok(()) => boot::power_off(),
            Err(fault) => fault,
        },
        Err(fault) => fault,
    };
    boot::log(&fault);
    // The end of PID 1 is a kernel panic, by which the host knows that this was no ordinary end.
    1
}

fn host(path: &Path) -> c_int {
    let ended = sealed::run_from_copy()
        .and_then(|()| boot::host(Link::Unix(PathBuf::from(path))))
        .and_then(server::Server::run);
    match ended {
        Ok(()) => 0,
        Err(fault) => {
            say_error(&fault);
            1
        }
    }
}

fn say(text: &str) {
    // Nobody to tell when this fails.
    let _ = rustix::io::write(rustix::stdio::stdout(), text.as_bytes());
}

fn say_error(fault: &Fault) {
    // As above.
    let _ =
        rustix::io::write(rustix::stdio::stderr(), format!("bulkhead-agent: {fault}\n").as_bytes());
}
