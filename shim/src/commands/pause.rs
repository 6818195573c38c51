//! `bulkhead pause` and `bulkhead unpause`.

use super::{
    CommandError,
    context::{Context, for_each, say},
};
use crate::{cli::Names, lifecycle::LifecycleError};

/// Freezes containers.
pub(super) fn pause(args: &Names) -> Result<u8, CommandError> {
    let context = Context::open()?;
    Ok(for_each(&args.containers, |reference| {
        let place = context.find(reference)?;
        let mut container = context.live(&place, reference)?;
        if context.is_paused(&place) {
            return Err(CommandError::State(format!("Container {reference} is already paused")));
        }
        container.pause().map_err(CommandError::of(reference))?;
        say(reference)
    }))
}

/// Thaws containers.
pub(super) fn unpause(args: &Names) -> Result<u8, CommandError> {
    let context = Context::open()?;
    Ok(for_each(&args.containers, |reference| {
        let place = context.find(reference)?;
        let mut container = context.live(&place, reference)?;
        match container.resume() {
            Ok(()) => say(reference),
            Err(LifecycleError::NotPaused) => {
                Err(CommandError::State(format!("Container {reference} is not paused")))
            }
            Err(error) => Err(CommandError::of(reference)(error)),
        }
    }))
}
