//! What the kernel says of processes (proc(5)).

use std::{fs, io::Read};

use bulkhead_protocol::ProcessInfo;
use rustix::param::{clock_ticks_per_second, page_size};

/// The processes of these numbers; those that have ended are left out.
pub(super) fn read(pids: &[u32]) -> Vec<ProcessInfo> {
    pids.iter().filter_map(|&pid| one(pid)).collect()
}

fn one(pid: u32) -> Option<ProcessInfo> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut info = parse(pid, &stat)?;
    info.uid = uid(pid)?;
    let mut line = Vec::new();
    let limit = ProcessInfo::MAX_COMMAND as u64;
    fs::File::open(format!("/proc/{pid}/cmdline")).ok()?.take(limit).read_to_end(&mut line).ok()?;
    if !line.is_empty() {
        let words = line.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        info.command = words.collect::<Vec<_>>().join(" ").trim_end().to_owned();
    }
    Some(info)
}

fn uid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// `PID (NAME) STATE PPID …`; the name may hold anything.
fn parse(pid: u32, stat: &str) -> Option<ProcessInfo> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.trim().parse::<u64>().ok();
    let ms = |ticks: u64| ticks * 1000 / clock_ticks_per_second().max(1);
    Some(ProcessInfo {
        host_pid: Some(pid),
        pid,
        ppid: u32::try_from(number(4)?).ok()?,
        uid: 0,
        state: fields.first()?.chars().next()?,
        tty: tty(number(7).unwrap_or(0)),
        threads: u32::try_from(number(20)?).ok()?,
        started_ms: ms(number(22)?),
        cpu_ms: ms(number(14)? + number(15)?),
        resident: number(24)? * page_size() as u64,
        command: format!("[{name}]"),
    })
}

/// The name of a terminal's device number; pseudo terminals have majors 136 to 143 (devices.txt).
fn tty(number: u64) -> Option<String> {
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
    match major {
        0 => None,
        136..=143 => Some(format!("pts/{}", minor + (major - 136) * 256)),
        4 => Some(format!("tty{minor}")),
        _ => Some(format!("{major}:{minor}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) S (b) R 3 7 7 34817 7 0 0 0 0 0 100 50 0 0 20 0 2 0 300 4096 5 0 0";
        let info = parse(7, stat).unwrap();
        assert_eq!((info.ppid, info.state, info.threads), (3, 'R', 2));
        assert_eq!(info.tty.as_deref(), Some("pts/1"));
        assert_eq!(info.command, "[a) S (b]");
        assert_eq!((info.cpu_ms, info.started_ms), (1500, 3000));
    }

    #[test]
    fn this_process_is_there() {
        let list = read(&[std::process::id(), u32::MAX]);
        assert_eq!(list.len(), 1);
        assert!(list[0].resident > 0 && list[0].command.contains("bulkhead"));
    }
}
