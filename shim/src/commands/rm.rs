//! `bulkhead rm` and `bulkhead rename`.

use super::{
    CommandError,
    context::{Context, for_each, say, warn},
    stop::kill_one,
};
use crate::{
    cli::{RenameArgs, RmArgs},
    container::ContainerError,
};

/// Removes containers.
pub(super) fn rm(args: &RmArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    Ok(for_each(&args.names.containers, |reference| {
        let place = context.find(reference)?;
        if args.force {
            match kill_one(&context, &place, reference) {
                // Nothing can be read of it, and nothing is lost.
                Err(CommandError::Container(ContainerError::Damaged { .. })) => {}
                done => done?,
            }
        }
        let guard = context.registry.guard()?;
        if !place.data().exists() {
            // It went with its end.
            return say(reference);
        }
        if !args.force && context.registry.settle(&guard, &place)?.is_active() {
            return Err(CommandError::State(format!(
                "You cannot remove a running container {}. Stop the container before attempting removal or force remove",
                place.id
            )));
        }
        match context.registry.clear(&place.id) {
            Err(ContainerError::Network { source, .. }) if args.force => {
                warn(&format!(
                    "its network may still hold addresses and ports of container {reference}: {source}"
                ));
                context.registry.abandon_network(&place.id)?;
            }
            cleared => cleared?,
        }
        context.registry.remove(&guard, &place)?;
        say(reference)
    }))
}

/// Gives a container another name.
pub(super) fn rename(args: &RenameArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    let guard = context.registry.guard()?;
    let place = context.find(&args.container)?;
    context.registry.rename(&guard, &place, &args.name)?;
    Ok(0)
}
