//! What each verb does.

mod attach;
mod bench;
mod context;
mod copy;
pub(crate) mod create;
mod ended;
mod error;
mod exec;
mod format;
mod image;
mod inspect;
mod kill;
mod logs;
mod pause;
mod ps;
mod rm;
mod run;
mod start;
mod stats;
mod stop;
pub(crate) mod table;
mod template;
mod top;
mod view;
mod wait;

pub use error::{CommandError, chain};

use crate::{cli::Command, keeper};

/// Does what the command line says; the exit code is for this process. `started` is when the process was (see [`crate::timeline::now`]).
///
/// # Errors
/// [`CommandError`].
pub fn run_command(command: &Command, started: u64) -> Result<u8, CommandError> {
    match command {
        Command::Run(args) => run::run(args, started),
        Command::Create(args) => create::create(args),
        Command::Start(args) => start::start(args),
        Command::Exec(args) => exec::exec(args),
        Command::Ps(args) => ps::ps(args),
        Command::Logs(args) => logs::logs(args),
        Command::Stop(args) => stop::stop(args),
        Command::Kill(args) => kill::kill(args),
        Command::Restart(args) => start::restart(args),
        Command::Rm(args) => rm::rm(args),
        Command::Inspect(args) => inspect::inspect(args),
        Command::Cp(args) => copy::cp(args),
        Command::Top(args) => top::top(args),
        Command::Stats(args) => stats::stats(args),
        Command::Wait(args) => wait::wait(args),
        Command::Attach(args) => attach::attach(args),
        Command::Rename(args) => rm::rename(args),
        Command::Pause(args) => pause::pause(args),
        Command::Unpause(args) => pause::unpause(args),
        Command::Image(command) => image::image(command).map(|()| 0),
        Command::Template(command) => template::template(command),
        Command::Bench(command) => Ok(bench::bench(command)?),
        Command::Keeper(args) if args.keep => Ok(keeper::keep(&args.id).map(|()| 0)?),
        Command::Keeper(args) => Ok(keeper::guard(&args.id).map(|()| 0)?),
    }
}

impl Command {
    /// The exit code of this verb when it fails: docker's, for whom only verbs that give a program's exit code have others than 1.
    #[must_use]
    pub fn failure_code(&self, error: &CommandError) -> u8 {
        match (self, error.exit_code()) {
            (Self::Run(_) | Self::Image(_) | Self::Bench(_), code) => code,
            (Self::Exec(_) | Self::Start(_) | Self::Attach(_), code) if code != 125 => code,
            _ => 1,
        }
    }
}
