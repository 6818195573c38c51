//! The verbs that only name a container: `start`, `state`, `pause`, `resume`.

use super::{Context, OciError, Parsed, output};

/// runc: an error of the program is the verb's.
pub(super) fn start(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let mut container = context.container(parsed)?;
    match container.start() {
        Ok(warnings) => {
            context.warn(&warnings);
            Ok(0)
        }
        Err(error) => Err(OciError::Refused(error.of_process(&program(&container)))),
    }
}

/// The name of its program, as its configuration has it.
pub(super) fn program(container: &crate::lifecycle::Container) -> String {
    let config = container.config().ok();
    let process = config.as_ref().and_then(|config| config.spec().process.as_ref());
    process.and_then(|process| process.args.first()).cloned().unwrap_or_default()
}

/// Without a newline at the end, as runc.
pub(super) fn state(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let state = context.container(parsed)?.state()?;
    output::text(&output::pretty(&state, "  "));
    Ok(0)
}

pub(super) fn pause(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    context.container(parsed)?.pause()?;
    Ok(0)
}

pub(super) fn resume(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    context.container(parsed)?.resume()?;
    Ok(0)
}
