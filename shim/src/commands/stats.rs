//! `bulkhead stats`.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
    thread,
    time::{Duration, Instant},
};

use bulkhead_protocol::Stats;
use serde_json::{Value, json};

use super::{
    CommandError,
    context::{Context, not_running},
    table::Table,
};
use crate::{
    cli::StatsArgs,
    container::{Place, Status, id::short},
    lifecycle::LifecycleError,
    size,
};

/// The time between two looks, over which the processors' use is told.
const INTERVAL: Duration = Duration::from_secs(1);

/// A look at a container.
#[derive(Debug)]
struct Look {
    at: Instant,
    stats: Stats,
}

/// What is shown of a container.
#[derive(Debug)]
struct Row {
    id: String,
    name: String,
    cpu_percent: f64,
    memory: u64,
    limit: Option<u64>,
    read: u64,
    written: u64,
    pids: u64,
}

/// Shows what containers use.
pub(super) fn stats(args: &StatsArgs) -> Result<u8, CommandError> {
    let context = Context::open()?;
    for reference in &args.containers {
        let place = context.find(reference)?;
        if context.reached(&place)?.status != Status::Running {
            return Err(not_running(&place));
        }
    }
    let mut before = look_at_all(&context, &args.containers)?;
    loop {
        thread::sleep(INTERVAL);
        let now = look_at_all(&context, &args.containers)?;
        let mut rows: Vec<Row> = now
            .iter()
            .map(|(id, (name, look))| row(id, name, look, before.get(id).map(|(_, look)| look)))
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        show(&rows, args)?;
        if args.no_stream || (rows.is_empty() && !args.containers.is_empty()) {
            return Ok(0);
        }
        before = now;
    }
}

type Looks = HashMap<String, (String, Look)>;

/// Looks at the containers, or at all that run. One that has ended meanwhile is left out.
fn look_at_all(context: &Context, references: &[String]) -> Result<Looks, CommandError> {
    let places: Vec<Place> = match references {
        [] => context.registry.places()?,
        some => some.iter().filter_map(|reference| context.find(reference).ok()).collect(),
    };
    let mut looks = HashMap::new();
    for place in places {
        let Ok(definition) = place.definition() else { continue };
        let container = match context.live(&place, &definition.name) {
            Ok(container) => container,
            Err(CommandError::State(_) | CommandError::Container(_)) => continue,
            Err(error) => return Err(error),
        };
        match container.stats() {
            Ok(stats) => {
                looks.insert(place.id, (definition.name, Look { at: Instant::now(), stats }));
            }
            Err(LifecycleError::NotRunningNamed(_) | LifecycleError::NotFound) => {}
            Err(error) => return Err(CommandError::of(&definition.name)(error)),
        }
    }
    Ok(looks)
}

fn row(id: &str, name: &str, now: &Look, before: Option<&Look>) -> Row {
    #[allow(clippy::cast_precision_loss, reason = "two digits of a percentage are shown")]
    let cpu_percent = before.map_or(0.0, |before| {
        let used = now.stats.cpu.usage.total.saturating_sub(before.stats.cpu.usage.total);
        let elapsed = now.at.duration_since(before.at).as_nanos().max(1);
        used as f64 / elapsed as f64 * 100.0
    });
    let bytes = |op: &str| {
        let entries = now.stats.blkio.service_bytes.iter();
        entries.filter(|entry| entry.op.eq_ignore_ascii_case(op)).map(|entry| entry.value).sum()
    };
    let memory = &now.stats.memory;
    // What the kernel can take back at once is not counted, as with docker.
    let inactive =
        ["total_inactive_file", "inactive_file"].iter().find_map(|name| memory.raw.get(*name));
    Row {
        id: id.into(),
        name: name.into(),
        cpu_percent,
        memory: memory.usage.usage.saturating_sub(inactive.copied().unwrap_or(0)),
        // Cgroup v1 says "no limit" with the largest number of whole pages.
        limit: Some(memory.usage.limit).filter(|limit| *limit < 1 << 62 && *limit > 0),
        read: bytes("read"),
        written: bytes("write"),
        pids: now.stats.pids.current,
    }
}

fn show(rows: &[Row], args: &StatsArgs) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    if args.json {
        let rows = rows.iter().map(Row::json).collect();
        writeln!(out, "{}", Value::Array(rows))?;
        return Ok(());
    }
    if !args.no_stream && out.is_terminal() {
        // Clears the terminal and goes to its first line (ECMA-48, ED and CUP).
        write!(out, "\x1b[2J\x1b[H")?;
    }
    let mut table = Table::new(&[
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "BLOCK I/O",
        "PIDS",
    ]);
    for row in rows {
        let limit = row.limit.map_or_else(|| "-".into(), size::human);
        let percent = row.memory_percent().map_or_else(|| "-".into(), |p| format!("{p:.2}%"));
        table.row(vec![
            short(&row.id).into(),
            row.name.clone(),
            format!("{:.2}%", row.cpu_percent),
            format!("{} / {limit}", size::human(row.memory)),
            percent,
            format!("{} / {}", size::human(row.read), size::human(row.written)),
            row.pids.to_string(),
        ]);
    }
    table.write(&mut out)?;
    out.flush()?;
    Ok(())
}

impl Row {
    fn memory_percent(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "two digits of a percentage are shown")]
        self.limit.map(|limit| self.memory as f64 / limit as f64 * 100.0)
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "cpu_percent": self.cpu_percent,
            "memory": self.memory,
            "memory_limit": self.limit,
            "memory_percent": self.memory_percent(),
            "block_read": self.read,
            "block_written": self.written,
            "pids": self.pids,
        })
    }
}
