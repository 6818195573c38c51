//! `ps`: the processes of a container.

use std::process::Command;

use bulkhead_protocol::ProcessInfo;

use super::{Context, OciError, Parsed, output};
use crate::sandbox::Isolation;

pub(super) fn ps(context: &Context<'_>, parsed: &Parsed) -> Result<u8, OciError> {
    let container = context.container(parsed)?;
    let processes = container.processes()?;
    match parsed.some("format").unwrap_or("table") {
        "json" => {
            let mut pids: Vec<u32> = processes.iter().filter_map(|one| one.host_pid).collect();
            if pids.is_empty() && !processes.is_empty() {
                // All of a guest's processes are one on this host.
                pids.extend(u32::try_from(container.state()?.pid));
            }
            output::json_line(&pids);
        }
        "table" if container.isolation() == Isolation::Host => {
            let options = parsed.arguments.get(1..).unwrap_or_default();
            let pids: Vec<u32> = processes.iter().map(|one| one.pid).collect();
            output::text(&of_host(options, &pids)?);
        }
        "table" => output::text(&table(&processes)),
        _ => return Err(OciError::Refused("invalid format option".into())),
    }
    Ok(0)
}

/// The lines of the host's ps(1) for these processes.
fn of_host(options: &[String], pids: &[u32]) -> Result<String, OciError> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef")
    } else {
        command.args(options)
    };
    let done = command
        .output()
        .map_err(|error| OciError::Refused(format!("cannot run ps: {error}; try --format json")))?;
    let text = String::from_utf8_lossy(&done.stdout);
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(OciError::Refused(format!("ps: {}: {}", done.status, said.trim())));
    }
    filter(&text, pids)
        .ok_or_else(|| OciError::Refused("couldn't find PID field in ps output".into()))
}

fn filter(text: &str, pids: &[u32]) -> Option<String> {
    let mut lines = text.lines();
    let head = lines.next()?;
    let column = head.split_whitespace().position(|name| name == "PID")?;
    let of_container = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let mut kept = format!("{head}\n");
    for line in lines.filter(of_container) {
        kept.push_str(line);
        kept.push('\n');
    }
    Some(kept)
}

/// A guest's processes: no program of the host can see them.
fn table(processes: &[ProcessInfo]) -> String {
    let mut text = "UID        PID  PPID S TTY          TIME CMD\n".to_owned();
    for one in processes {
        let ProcessInfo { uid, pid, ppid, state, tty, cpu_ms, command, .. } = one;
        let seconds = cpu_ms / 1000;
        let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let tty = tty.as_deref().unwrap_or("?");
        // What a guest says is shown on one line.
        let command = command.replace(char::is_control, "?");
        text.push_str(&format!("{uid:<8} {pid:>5} {ppid:>5} {state} {tty:<8} {time} {command}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_pid() {
        let text = "UID  PID CMD\nroot 1 init\nme 22 a 1\nme 3 b\n";
        assert_eq!(filter(text, &[22, 3]).unwrap(), "UID  PID CMD\nme 22 a 1\nme 3 b\n");
        assert_eq!(filter("CMD\nx\n", &[1]), None);
    }
}
