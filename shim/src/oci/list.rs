//! `list`: the containers of the state root.

use super::{Context, OciError, Parsed, output};
use crate::lifecycle::OciState;

/// runc's columns: at least this wide, with three spaces between them.
const HEAD: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
const LEAST: usize = 12;
const GAP: usize = 3;

pub(super) fn list(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let mut states = Vec::new();
    for entry in context.root.list()? {
        // One that cannot be read, or is deleted just now, does not hide the others.
        match entry.and_then(|container| {
            container.state().map_err(|error| (container.id().to_owned(), error))
        }) {
            Ok(state) => states.push(state),
            Err((id, error)) => context.warn(&[format!("container {id}: {error}")]),
        }
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    for state in &mut states {
        state.owner = name(&users, state.owner_id);
    }
    if parsed.has("quiet") {
        states.iter().for_each(|state| output::text(&format!("{}\n", state.id)));
        return Ok(0);
    }
    match parsed.some("format").unwrap_or("table") {
        "table" => output::text(&table(&states)),
        "json" => json(&states),
        _ => return Err(OciError::Refused("invalid format option".into())),
    }
    Ok(0)
}

/// No container is `null`, as in Go.
fn json(states: &[OciState]) {
    if states.is_empty() { output::text("null\n") } else { output::json_line(&states) }
}

fn table(states: &[OciState]) -> String {
    let rows = states.iter().map(|state| {
        let OciState { id, pid, status, bundle, created, owner, .. } = state;
        let bundle = bundle.display().to_string();
        [id.clone(), pid.to_string(), (*status).to_owned(), bundle, created.clone(), owner.clone()]
    });
    let rows: Vec<[String; 6]> = [HEAD.map(str::to_owned)].into_iter().chain(rows).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let widest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
                let width = (widest + GAP).max(LEAST);
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

/// The name of a user, or `#` and the number.
fn name(users: &str, id: u32) -> String {
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    });
    named.map_or_else(|| format!("#{id}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_runcs() {
        assert_eq!(
            table(&[]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
        assert_eq!(name("root:x:0:0:::\nme:x:7:7:::\n", 7), "me");
        assert_eq!(name("", 7), "#7");
    }
}
