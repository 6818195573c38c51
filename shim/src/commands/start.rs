//! `bulkhead start` and `bulkhead restart`.

use super::{
    CommandError,
    context::{Context, for_each, say, warn},
    run::{exit_code, finish, report},
    stop::stop_one,
};
use crate::{
    cli::{RestartArgs, StartArgs},
    container::{Place, Status, id::short},
    keeper::{
        Launched,
        frames::{Frame, FromKeeper, Hello},
        launch,
    },
    session::{Outcome, Plan, Session, SessionError, note},
    timeline::{self, Timeline},
};

/// Starts containers that do not run.
pub(super) fn start(args: &StartArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    if args.attach || args.interactive {
        let [reference] = args.names.containers.as_slice() else {
            let message = "start -a and -i take one container".into();
            return Err(CommandError::Usage(message));
        };
        return start_attached(&context, reference, args.interactive);
    }
    Ok(for_each(&args.names.containers, |reference| {
        let place = context.find(reference)?;
        match context.settled(&place)?.status {
            Status::Starting | Status::Running => {}
            Status::Created | Status::Exited => start_one(&context, &place)?,
        }
        say(reference)
    }))
}

/// Stops containers and starts them.
pub(super) fn restart(args: &RestartArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    Ok(for_each(&args.names.containers, |reference| {
        let place = context.find(reference)?;
        stop_one(&context, &place, reference, args.time)?;
        start_one(&context, &place)?;
        say(reference)
    }))
}

fn start_one(context: &Context, place: &Place) -> Result<(), CommandError> {
    wait_for_start(begin(context, place, Hello::default())?)
}

/// Starts the keeper of a container that has none.
pub(super) fn begin(
    context: &Context,
    place: &Place,
    hello: Hello,
) -> Result<Launched, CommandError> {
    let guard = context.registry.guard()?;
    let state = context.registry.settle(&guard, place)?;
    if state.is_active() {
        return Err(CommandError::State(format!(
            "Container {} is already running",
            short(&place.id)
        )));
    }
    launch(&context.settings, &guard, place, hello)?.map_err(CommandError::Failed)
}

/// Waits until the container's program runs.
pub(super) fn wait_for_start(mut launched: Launched) -> Result<(), CommandError> {
    loop {
        match FromKeeper::receive(&mut launched.socket) {
            Ok(Some(FromKeeper::Started(_) | FromKeeper::Ended(_))) => return Ok(()),
            Ok(Some(FromKeeper::Failed(failed))) => return Err(CommandError::Failed(failed)),
            Ok(Some(FromKeeper::Warning(text))) => warn(&text),
            Ok(Some(FromKeeper::Note(text))) => note(&text),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Err(SessionError::Lost.into()),
        }
    }
}

fn start_attached(
    context: &Context,
    reference: &str,
    interactive: bool,
) -> Result<u8, CommandError> {
    let place = context.find(reference)?;
    let definition = place.definition()?;
    let input = interactive && definition.interactive;
    let launched = begin(context, &place, Hello { output: true, input })?;
    let plan = Plan {
        interactive: input,
        terminal: definition.terminal,
        starting: Some(launched.keeper),
        forward_signals: true,
    };
    let mut timeline = Timeline::begin(timeline::now());
    let outcome = Session::new(plan, launched.socket, &mut timeline)?.run();
    match finish(context, &place, outcome)? {
        Outcome::Detached => Ok(0),
        Outcome::Ended(ended) => {
            let _ = report(&mut std::io::stderr(), &ended, &definition);
            Ok(exit_code(&ended))
        }
    }
}
