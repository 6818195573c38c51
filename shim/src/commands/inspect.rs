//! `bulkhead inspect`.

use super::{
    CommandError, chain,
    context::{Context, say, warn},
    format,
    view::View,
};
use crate::cli::InspectArgs;

/// Shows all that is known of containers.
pub(super) fn inspect(args: &InspectArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    let mut found = Vec::new();
    let mut code = 0;
    for reference in &args.names.containers {
        let view = context.find(reference).and_then(|place| View::of(&context, place));
        match view.and_then(|view| view.whole()) {
            Ok(value) => found.push(value),
            Err(error) => {
                warn(&chain(&error));
                code = 1;
            }
        }
    }
    match &args.format {
        Some(text) => {
            for value in &found {
                say(&format::fill(text, value).map_err(CommandError::Usage)?)?;
            }
        }
        None => {
            let text = serde_json::to_string_pretty(&found).map_err(std::io::Error::other)?;
            say(&text)?;
        }
    }
    Ok(code)
}
