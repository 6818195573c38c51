//! `bulkhead stop`.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    CommandError,
    context::{Context, for_each, say},
    ended::wait_for_end,
    kill::signal,
};
use crate::{
    cli::StopArgs,
    container::{Place, Status},
};

/// How long a killed container may take to be gone.
const KILLED: Duration = Duration::from_secs(60);
/// So many plugins may take all their time to give its network back.
const PLUGINS: u64 = 3;

/// Stops containers.
pub(super) fn stop(args: &StopArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    Ok(for_each(&args.names.containers, |reference| {
        let place = context.find(reference)?;
        stop_one(&context, &place, reference, args.time)?;
        say(reference)
    }))
}

/// Asks a container to end and waits so many seconds before it is killed. One that does not run is left alone.
pub(super) fn stop_one(
    context: &Context,
    place: &Place,
    reference: &str,
    seconds: u64,
) -> Result<(), CommandError> {
    let state = context.settled(place)?;
    if !state.is_active() {
        return Ok(());
    }
    if state.status == Status::Running {
        let number = place.definition()?.stop_signal;
        if signal(context, place, reference, number)? {
            let deadline = Instant::now().checked_add(Duration::from_secs(seconds));
            if wait_for_end(context, place, deadline)?.is_some() {
                return Ok(());
            }
        }
    }
    kill_one(context, place, reference)
}

/// Kills a container, whatever it does, and waits until it is gone.
pub(super) fn kill_one(
    context: &Context,
    place: &Place,
    reference: &str,
) -> Result<(), CommandError> {
    let state = context.reached(place)?;
    match (state.status, state.keeper) {
        // Its guardian removes what there is of it.
        (Status::Starting, Some(keeper)) => {
            if let Some(pid) = Pid::from_raw(keeper.pid.cast_signed()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        (Status::Running, _) => drop(signal(context, place, reference, Signal::KILL.as_raw())?),
        _ => return Ok(()),
    }
    let networked = place.definition().is_ok_and(|definition| definition.network.is_some());
    let plugins =
        if networked { PLUGINS.saturating_mul(context.settings.network.timeout) } else { 0 };
    let patience = KILLED.saturating_add(Duration::from_secs(plugins));
    match wait_for_end(context, place, Instant::now().checked_add(patience)) {
        Ok(Some(_)) => Ok(()),
        // What goes with its end was the container itself.
        Err(CommandError::Container(_)) if !place.data().exists() => Ok(()),
        Ok(None) => Err(CommandError::State(format!(
            "container {reference} was killed and has not ended within {} s",
            patience.as_secs()
        ))),
        Err(error) => Err(error),
    }
}
