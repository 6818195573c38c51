//! `kill`: a signal for a container.

use super::{Context, OciError, Parsed};
use crate::stdio::signals;

/// The highest signal (signal(7)).
const MAX: i32 = 64;

pub(super) fn kill(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let mut container = context.container(parsed)?;
    let text = parsed.arguments.get(1).map_or("SIGTERM", String::as_str);
    let signal = match text.parse::<i32>() {
        Ok(number) if (0..=MAX).contains(&number) => number,
        Ok(_) => return Err(OciError::Refused("unable to signal init: invalid argument".into())),
        Err(_) => signals::number(text)
            .ok_or_else(|| OciError::Refused(format!("unknown signal {text:?}")))?,
    };
    container.kill(signal, parsed.has("all"))?;
    Ok(0)
}
