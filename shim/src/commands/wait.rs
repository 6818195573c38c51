//! `bulkhead wait`.

use super::{
    CommandError,
    context::{Context, for_each, say},
    ended::wait_for_end,
};
use crate::cli::Names;

/// Waits for the end of each container and prints its exit code.
pub(super) fn wait(args: &Names) -> Result<u8, CommandError> {
    let context = Context::open()?;
    Ok(for_each(&args.containers, |reference| {
        let place = context.find(reference)?;
        let code = wait_for_end(&context, &place, None)?;
        say(&code.unwrap_or(0).to_string())
    }))
}
