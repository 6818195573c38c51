//! `bulkhead ps`.

use std::{
    cmp::Reverse,
    io::{self, Write},
};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    CommandError, chain,
    context::{Context, warn},
    table::{Table, ago},
    view::View,
};
use crate::{
    cli::PsArgs,
    container::{ContainerError, Status},
    text::cut,
};

/// Docker's width of a command.
const COMMAND: usize = 20;

/// Lists containers, the newest first.
pub(super) fn ps(args: &PsArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    let mut views = Vec::new();
    for place in context.registry.places()? {
        match View::of(&context, place) {
            Ok(view) => views.push(view),
            // It was removed just now.
            Err(CommandError::Container(ContainerError::NotFound(_))) => {}
            Err(error) => warn(&chain(&error)),
        }
    }
    views.sort_by_key(|view| Reverse(view.definition.created));
    if args.latest {
        views.truncate(1);
    } else if !args.all {
        views.retain(|view| matches!(view.state.status, Status::Running | Status::Starting));
    }
    let mut out = io::stdout().lock();
    let now = Timestamp::now();
    if args.json {
        let rows = views.iter().map(|view| view.summary(now)).collect();
        writeln!(out, "{}", Value::Array(rows))?;
        return Ok(0);
    }
    if args.quiet {
        for view in &views {
            writeln!(out, "{}", if args.no_trunc { &view.place.id } else { view.short_id() })?;
        }
        return Ok(0);
    }
    table(&views, args.no_trunc, now).write(&mut out)?;
    Ok(0)
}

fn table(views: &[View], whole: bool, now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "ISOLATION",
        "PORTS",
        "NAMES",
    ]);
    for view in views {
        let command = view.definition.command.join(" ");
        let command = if whole { command } else { cut(&command, COMMAND) };
        table.row(vec![
            if whole { view.place.id.clone() } else { view.short_id().to_owned() },
            view.definition.image_name.clone(),
            format!("\"{command}\""),
            format!("{} ago", ago(view.definition.created, now)),
            view.status_text(now),
            view.definition.isolation.to_string(),
            view.ports(),
            view.definition.name.clone(),
        ]);
    }
    table
}
