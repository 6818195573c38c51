//! `bulkhead top`.

use std::io;

use super::{
    CommandError,
    context::{Context, say},
    table::Table,
};
use crate::{cli::TopArgs, size};

/// Lists the processes of a container.
pub(super) fn top(args: &TopArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    let place = context.find(&args.container)?;
    let container = context.live(&place, &args.container)?;
    let processes = container.processes().map_err(CommandError::of(&args.container))?;
    if args.json {
        say(&serde_json::to_string(&processes).map_err(io::Error::other)?)?;
        return Ok(0);
    }
    let mut table =
        Table::new(&["UID", "PID", "PPID", "S", "THREADS", "RSS", "TTY", "TIME", "CMD"]);
    for process in processes {
        table.row(vec![
            process.uid.to_string(),
            process.host_pid.unwrap_or(process.pid).to_string(),
            process.ppid.to_string(),
            process.state.to_string(),
            process.threads.to_string(),
            size::human(process.resident),
            process.tty.unwrap_or_else(|| "?".into()),
            time(process.cpu_ms),
            process.command,
        ]);
    }
    table.write(&mut io::stdout().lock())?;
    Ok(0)
}

/// Hours, minutes and seconds.
fn time(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
