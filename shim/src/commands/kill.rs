//! `bulkhead kill`.

use super::{
    CommandError,
    context::{Context, for_each, not_running, say},
};
use crate::{
    cli::KillArgs,
    container::{Place, Status},
    lifecycle::LifecycleError,
    sandbox::Status as Live,
    stdio::signals,
};

/// Sends a signal to containers.
pub(super) fn kill(args: &KillArgs) -> Result<u8, CommandError> {
    let number = signals::number(&args.signal)
        .ok_or_else(|| CommandError::Usage(format!("Invalid signal: {}", args.signal)))?;
    let context = Context::open()?;
    Ok(for_each(&args.names.containers, |reference| {
        let place = context.find(reference)?;
        let running = context.settled(&place)?.status == Status::Running;
        if !running || !signal(&context, &place, reference, number)? {
            let CommandError::State(why) = not_running(&place) else { return Ok(()) };
            return Err(CommandError::State(format!("Cannot kill container: {reference}: {why}")));
        }
        say(reference)
    }))
}

/// Sends a signal to a container's process, which is thawed if it is frozen: it would not hear it otherwise. False: it has ended.
pub(super) fn signal(
    context: &Context,
    place: &Place,
    reference: &str,
    number: i32,
) -> Result<bool, CommandError> {
    let mut container = match context.live(place, reference) {
        Err(CommandError::State(_)) => return Ok(false),
        container => container?,
    };
    let paused = context.is_paused(place);
    match container.kill(number, false) {
        Ok(()) => {}
        Err(LifecycleError::NotRunning) => return Ok(false),
        // It has ended meanwhile.
        Err(_) if matches!(container.status(), Ok(Live::Stopped)) => return Ok(false),
        Err(error) => return Err(CommandError::of(reference)(error)),
    }
    if paused && let Err(error) = container.resume() {
        // Some signals thaw by themselves.
        if context.is_paused(place) {
            return Err(CommandError::of(reference)(error));
        }
    }
    Ok(true)
}
