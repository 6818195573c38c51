//! `bulkhead attach`.

use super::{
    CommandError,
    context::{Context, not_running},
    run::{exit_code, finish, report},
};
use crate::{
    cli::AttachArgs,
    container::id::short,
    keeper::{connect, frames::Hello},
    session::{Outcome, Plan, Session},
    timeline::{self, Timeline},
};

/// Joins a running container's standard streams.
pub(super) fn attach(args: &AttachArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    let place = context.find(&args.container)?;
    if !context.reached(&place)?.is_active() {
        return Err(CommandError::State(format!(
            "You cannot attach to a stopped container ({}), start it first",
            short(&place.id)
        )));
    }
    if context.is_paused(&place) {
        return Err(CommandError::State(format!(
            "You cannot attach to a paused container ({}), unpause it first",
            short(&place.id)
        )));
    }
    let definition = place.definition()?;
    let input = definition.interactive && !args.no_stdin;
    let socket = connect(&place, Hello { output: true, input }).map_err(|_| not_running(&place))?;
    let plan = Plan {
        interactive: input,
        terminal: definition.terminal,
        starting: None,
        forward_signals: args.sig_proxy,
    };
    let mut timeline = Timeline::begin(timeline::now());
    let outcome = Session::new(plan, socket, &mut timeline)?.run();
    match finish(&context, &place, outcome)? {
        Outcome::Detached => Ok(0),
        Outcome::Ended(ended) => {
            // With standard error closed the exit code has to do.
            let _ = report(&mut std::io::stderr(), &ended, &definition);
            Ok(exit_code(&ended))
        }
    }
}
