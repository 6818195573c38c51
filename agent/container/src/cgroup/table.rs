//! What `/proc` says of processes (proc(5)), for lists of a container's.

use std::{fs::File, io::Read};

use bulkhead_protocol::ProcessInfo;

use super::group::Cgroup;
use crate::error::Error;

/// More processes are refused: their list would be too long for a message.
const MAX_PROCESSES: usize = 8192;
/// With more than these, command lines are cut shorter.
const MANY: usize = 512;
const SHORT_COMMAND: usize = 64;
/// `/proc/PID/stat` and `status` are shorter.
const MAX_FILE: u64 = 8192;
/// Milliseconds in a tick of `USER_HZ`.
const TICK_MS: u64 = 10;
/// The device numbers of pseudo terminals' slaves (Documentation/admin-guide/devices.txt).
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

impl Cgroup {
    /// A line for each process, for a table like that of `ps`. `/proc` must be mounted. `on_host`: this process's pids are
    /// the host's.
    ///
    /// # Errors
    /// [`Error::State`] when there are more than 8192; [`Error::System`].
    pub fn process_table(&self, on_host: bool) -> Result<Vec<ProcessInfo>, Error> {
        let pids = self.processes()?;
        if pids.len() > MAX_PROCESSES {
            return Err(Error::state(self.id(), "has more than 8192 processes, too many to list"));
        }
        let length = if pids.len() > MANY { SHORT_COMMAND } else { ProcessInfo::MAX_COMMAND };
        // One that has ended meanwhile is not listed.
        Ok(pids.into_iter().filter_map(|pid| describe(pid, on_host, length)).collect())
    }
}

fn describe(pid: u32, on_host: bool, length: usize) -> Option<ProcessInfo> {
    let stat = read(pid, "stat", MAX_FILE)?;
    let status = read(pid, "status", MAX_FILE)?;
    let command = read(pid, "cmdline", length as u64)?;
    let mut info = parse(pid, &stat, &status, &command)?;
    info.host_pid = on_host.then_some(pid);
    Some(info)
}

fn read(pid: u32, file: &str, limit: u64) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{file}")).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse(pid: u32, stat: &str, status: &str, command: &str) -> Option<ProcessInfo> {
    // The name is in parentheses and may hold any character.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    // Numbered as in proc(5): the first one after the name is 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let row = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let uid = row("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    // A zombie has none.
    let resident = row("VmRSS:").and_then(|kib| kib.trim().strip_suffix(" kB")?.parse().ok());
    let words = command.trim_end_matches('\0');
    let command = if words.is_empty() { format!("[{name}]") } else { words.replace('\0', " ") };
    Some(ProcessInfo {
        host_pid: None,
        pid,
        ppid: u32::try_from(number(4)?).ok()?,
        uid,
        state: fields.first()?.chars().next()?,
        tty: terminal(number(7)?),
        threads: u32::try_from(number(20)?).ok()?,
        started_ms: number(22)?.saturating_mul(TICK_MS),
        cpu_ms: number(14)?.saturating_add(number(15)?).saturating_mul(TICK_MS),
        resident: resident.unwrap_or(0_u64).saturating_mul(1024),
        command: command.replace(char::is_control, "?"),
    })
}

/// A terminal's name from its device number: minor bits 0 to 7 and 20 to 31, major bits 8 to 19.
fn terminal(device: u64) -> Option<String> {
    let device = u32::try_from(device & 0xffff_ffff).ok()?;
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    match major {
        0 => None,
        major if PTS_MAJORS.contains(&major) => {
            Some(format!("pts/{}", minor + (major - PTS_MAJORS.start()) * 256))
        }
        4 => Some(format!("tty{minor}")),
        5 if minor == 1 => Some("console".to_owned()),
        _ => Some(format!("{major}:{minor}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process() {
        let stat =
            "7 (a) b (c)) S 1 7 7 34817 7 4194560 100 0 0 0 12 3 0 0 20 0 2 0 500 1000 40 0 0\n";
        let status = "Name:\ta\nUid:\t1000\t1001\t1000\t1000\nVmRSS:\t     160 kB\n";
        let info = parse(7, stat, status, "sh\0-c\0x\ny\0").unwrap();
        assert_eq!((info.pid, info.ppid, info.uid, info.state), (7, 1, 1001, 'S'));
        assert_eq!(info.tty.as_deref(), Some("pts/1"));
        assert_eq!((info.threads, info.started_ms, info.cpu_ms), (2, 5000, 150));
        assert_eq!((info.resident, info.command.as_str()), (163_840, "sh -c x?y"));
        let kernel = parse(7, stat, status, "").unwrap();
        assert_eq!(kernel.command, "[a) b (c)]");
        assert!(parse(7, "7 (x", status, "").is_none());
    }

    #[test]
    fn terminals() {
        assert_eq!(terminal(0), None);
        assert_eq!(terminal(136 << 8 | 3).unwrap(), "pts/3");
        assert_eq!(terminal(137 << 8 | 3).unwrap(), "pts/259");
        assert_eq!(terminal(4 << 8 | 1).unwrap(), "tty1");
    }
}
