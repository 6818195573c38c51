//! `bulkhead-oci`: runc's command line over [`crate::lifecycle`]. One file per verb; the parser, the log's form, the exit
//! codes and the texts that tools look for are runc's.

mod args;
mod context;
mod create;
mod delete;
mod descriptors;
mod error;
mod events;
mod exec;
mod features;
mod foreground;
mod kill;
mod list;
mod log;
mod output;
mod ps;
mod signals;
mod simple;
mod spec;
mod update;
mod verb;

use std::ffi::OsString;

use args::{Order, Parsed};
use context::Context;
use error::OciError;
pub use features::features;
pub use log::{Format, Level, Log};
use verb::Verb;

/// Does what a command line says; the exit code is for this process.
pub fn run(words: impl Iterator<Item = OsString>) -> u8 {
    let mut log = Log::default();
    match dispatch(words, &mut log) {
        Ok(code) => code,
        Err(error) => {
            if let OciError::Usage { verb, message } = &error {
                let shown = if message.starts_with("bulkhead-oci:") { "." } else { message };
                let colon = if shown == "." { "" } else { ": " };
                output::text(&format!("Incorrect Usage{colon}{shown}\n\n{}\n", verb.help()));
            }
            log.line(Level::Error, &error.to_string().replace('\n', " "));
            error.exit_code()
        }
    }
}

fn dispatch(words: impl Iterator<Item = OsString>, log: &mut Log) -> Result<u8, OciError> {
    let mut words = texts(words)?.into_iter();
    let globals = args::parse(&mut words, &[verb::GLOBALS], Order::First).map_err(|message| {
        output::text(&format!("Incorrect Usage: {message}\n\n{}", verb::help()));
        OciError::Refused(message)
    })?;
    let mut left = globals.arguments.iter().cloned();
    let name = left.next();
    if globals.has("version") {
        version();
        return Ok(0);
    }
    let name = match name {
        Some(name) if !globals.has("help") => name,
        _ => {
            output::text(&verb::help());
            return Ok(0);
        }
    };
    open_log(&globals, log)?;
    if name == "help" || name == "h" {
        match left.next() {
            None => output::text(&verb::help()),
            Some(of) => output::text(&verb::find(&of).ok_or(OciError::NoVerb(of))?.help()),
        }
        return Ok(0);
    }
    let verb = verb::find(&name).ok_or(OciError::NoVerb(name))?;
    let usage = |message: String| OciError::Usage { message, verb };
    let lists = [verb.flags, verb::EVERYWHERE];
    let parsed = args::parse(&mut left, &lists, verb.order).map_err(usage)?;
    if parsed.has("help") {
        output::text(&verb.help());
        return Ok(0);
    }
    check_count(verb, &parsed).map_err(usage)?;
    let context = Context::new(&globals, &parsed, log)?;
    call(verb, &context, &parsed)
}

fn call(verb: &'static Verb, context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    match verb.name {
        "create" => create::create(context, parsed),
        "run" => create::run(context, parsed),
        "start" => simple::start(context, parsed),
        "state" => simple::state(context, parsed),
        "pause" => simple::pause(context, parsed),
        "resume" => simple::resume(context, parsed),
        "kill" => kill::kill(context, parsed),
        "delete" => delete::delete(context, parsed),
        "exec" => exec::exec(context, parsed),
        "list" => list::list(context, parsed),
        "ps" => ps::ps(context, parsed),
        "events" => events::events(context, parsed),
        "update" => update::update(context, parsed),
        "spec" => spec::spec(parsed),
        "features" => features::print(),
        name => Err(OciError::Refused(format!(
            "{name} is not supported yet: a container's memory cannot be saved"
        ))),
    }
}

/// runc's text for a wrong number of arguments.
fn check_count(verb: &Verb, parsed: &Parsed) -> Result<(), String> {
    let (least, most) = verb.count;
    let name = verb.name;
    match parsed.arguments.len() {
        count if least == most && count != least => {
            Err(format!("bulkhead-oci: {name:?} requires exactly {least} argument(s)"))
        }
        count if count < least => {
            Err(format!("bulkhead-oci: {name:?} requires a minimum of {least} argument(s)"))
        }
        count if count > most => {
            Err(format!("bulkhead-oci: {name:?} requires a maximum of {most} argument(s)"))
        }
        _ => Ok(()),
    }
}

/// JSON holds nothing but text, and so does a process that is described by it.
fn texts(words: impl Iterator<Item = OsString>) -> Result<Vec<String>, OciError> {
    words
        .map(|word| {
            word.into_string()
                .map_err(|word| OciError::Refused(format!("argument {word:?} is not UTF-8 text")))
        })
        .collect()
}

fn open_log(globals: &Parsed, log: &mut Log) -> Result<(), OciError> {
    let format = match globals.some("log-format") {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => {
            return Err(OciError::Refused(format!("invalid log-format: {other}; text or json")));
        }
    };
    let path = globals.some("log").filter(|path| *path != "/dev/stderr").map(std::path::Path::new);
    *log = Log::open(path, format, globals.has("debug"))
        .map_err(|error| OciError::Refused(format!("cannot open the log {path:?}: {error}")))?;
    Ok(())
}

/// In the form that docker and podman read.
fn version() {
    let version = env!("CARGO_PKG_VERSION");
    output::text(&format!("bulkhead-oci version {version}\nspec: 1.2.0\n"));
}
