//! `delete`: the end of a container.

use super::{Context, OciError, Parsed, context::id};
use crate::lifecycle::LifecycleError;

/// With `--force`, a container that is not there is deleted.
pub(super) fn delete(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let (id, force) = (id(parsed), parsed.has("force"));
    let deleted = context.root.get(id).and_then(|container| container.delete(force));
    match deleted {
        Ok(warnings) => context.warn(&warnings),
        // What is damaged, or was hardly begun.
        Err(LifecycleError::NotFound | LifecycleError::Damaged { .. }) if force => {
            context.root.discard(id)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}
