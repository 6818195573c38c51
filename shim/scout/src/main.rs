//! The scout: what `bulkhead bench` runs inside a container.
//!
//! `bulkhead-scout isolation` reads one line with what to look for, writes one with what it found, and on the line `go` does what an ordinary
//! program does, once. `bulkhead-scout control` looks only for what the bench has put on the host, and is to find all of it. `bulkhead-scout io` follows
//! orders. `bulkhead-scout wait WORD` is a process to be found. All end with their input.

mod child;
mod files;
mod io;
mod kernel;
mod look;
mod net;
mod tries;
mod work;

use std::{
    env,
    io::{BufRead, Read, Result, Write, copy, sink, stderr, stdin, stdout},
    path::Path,
    process::ExitCode,
};

use bulkhead_scout::{DONE, GO, Hints, Scope};

const USAGE: &str = "usage: bulkhead-scout isolation | control | io | wait WORD";
/// The longest line of input.
pub(crate) const LINE: u64 = 64 << 10;
/// Nothing here takes as long; whatever hangs is ended by its alarm.
const PATIENCE: u32 = 300;

fn main() -> ExitCode {
    // SAFETY: no pointers; nothing here uses the alarm for anything else.
    unsafe { libc::alarm(PATIENCE) };
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["isolation"] => isolation(|_| true),
        ["control"] => isolation(|scope| scope == Scope::Canary),
        ["io"] => io::run(),
        ["wait", _] => wait(),
        _ => Err(std::io::Error::other(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error closed the exit code has to do.
            let _ = writeln!(stderr(), "bulkhead-scout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn isolation(wanted: fn(Scope) -> bool) -> Result<()> {
    let mut input = stdin().lock();
    let mut line = String::new();
    input.by_ref().take(LINE).read_line(&mut line)?;
    let hints: Hints = serde_json::from_str(&line)?;
    let mut report = look::report(&hints);
    report.attempts = tries::all(&hints, report.processes.canary, wanted);
    say(&serde_json::to_string(&report)?)?;
    loop {
        line.clear();
        if input.by_ref().take(LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim_end() == GO {
            work::run(Path::new("/tmp")).or_else(|_| work::run(Path::new("/")))?;
            say(DONE)?;
        }
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// No alarm: whoever started it holds the other end of its input, and so ends it.
fn wait() -> Result<()> {
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
    copy(&mut stdin(), &mut sink()).map(drop)
}
