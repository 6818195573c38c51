//! `bulkhead run`: from an image's name to its program's exit code.

use std::{
    io::{self, Write},
    os::fd::AsFd,
};

use super::{
    CommandError,
    context::{Context, say},
    create::{Made, guest_memory, make},
    start::{begin, wait_for_start},
};
use crate::{
    cli::{RunArgs, TimelineFormat},
    container::Place,
    keeper::frames::{Ended, Hello},
    session::{Outcome, Plan, Session, SessionError},
    settings::Isolation,
    timeline::{Step, Timeline},
};

/// Runs a program of an image in a new container.
pub(super) fn run(args: &RunArgs, started: u64) -> Result<u8, CommandError> {
    let mut timeline = Timeline::begin(started);
    let container = &args.container;
    let foreground = !args.detach;
    if foreground
        && container.tty
        && container.interactive
        && !rustix::termios::isatty(io::stdin().as_fd())
    {
        let message = "-t with -i: standard input is not a terminal; leave -t out";
        return Err(CommandError::Usage(message.into()));
    }
    let context = Context::open()?;
    let place = make(&context, container, Made { by_run: true, attached: foreground })?;
    let hello = Hello { output: foreground, input: foreground && container.interactive };
    let launched = begin(&context, &place, hello).inspect_err(|_| forget(&context, &place))?;
    if args.detach {
        wait_for_start(launched)?;
        say(&place.id)?;
        return Ok(0);
    }
    let plan = Plan {
        interactive: container.interactive,
        terminal: container.tty,
        starting: Some(launched.keeper),
        forward_signals: true,
    };
    let definition = place.definition();
    let outcome = Session::new(plan, launched.socket, &mut timeline)?.run();
    match finish(&context, &place, outcome)? {
        Outcome::Detached => Ok(0),
        Outcome::Ended(ended) => {
            timeline.pass(Step::Ended);
            // With standard error closed the exit code has to do.
            let _ = report(&mut io::stderr(), &ended, &definition?)
                .and_then(|()| show(&mut io::stderr(), &timeline, args.timeline));
            Ok(exit_code(&ended))
        }
    }
}

/// Removes a container whose keeper could not even begin. What cannot be removed now, the next command removes.
fn forget(context: &Context, place: &Place) {
    let Ok(guard) = context.registry.guard() else { return };
    if place.state().is_ok_and(|state| !state.is_kept())
        && context.registry.clear(&place.id).is_ok()
    {
        let _ = context.registry.remove(&guard, place);
    }
}

/// Waits until what a killed keeper left has been put right, so that nobody meets it.
pub(super) fn finish(
    context: &Context,
    place: &Place,
    outcome: Result<Outcome, SessionError>,
) -> Result<Outcome, CommandError> {
    if matches!(outcome, Err(SessionError::Lost | SessionError::Signal(_))) {
        let guard = context.registry.guard()?;
        if let Ok(found) = context.registry.find(&place.id) {
            context.registry.settle(&guard, &found)?;
        }
    }
    Ok(outcome?)
}

/// The exit code of a command in the foreground of a container that has ended.
pub(super) fn exit_code(ended: &Ended) -> u8 {
    if ended.lost { 125 } else { ended.code }
}

/// Says what an exit code alone does not.
pub(super) fn report(
    to: &mut impl Write,
    ended: &Ended,
    definition: &crate::container::Definition,
) -> io::Result<()> {
    if ended.oom_killed && ended.code == 137 {
        let limit = match definition.isolation {
            Isolation::Vm => {
                let memory = definition.machine.memory_mib;
                format!("its {} MiB (--memory {memory}m)", guest_memory(memory))
            }
            Isolation::Host => "its limit (--memory)".into(),
        };
        writeln!(to, "bulkhead: out of memory: the container reached {limit}")?;
    }
    match &ended.error {
        Some(error) => writeln!(to, "bulkhead: {error}"),
        None => Ok(()),
    }
}

fn show(
    to: &mut impl Write,
    timeline: &Timeline,
    format: Option<TimelineFormat>,
) -> io::Result<()> {
    match format {
        None => Ok(()),
        Some(TimelineFormat::Table) => timeline.write_table(to),
        Some(TimelineFormat::Json) => writeln!(to, "{}", timeline.json()),
    }
}
