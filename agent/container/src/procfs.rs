//! Files of processes under the agent's `/proc`, which a guest mounts only when one of them is needed.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::MountFlags,
    process::Pid,
};

use crate::error::{Error, at};

/// Writes a file of a process.
pub(crate) fn write(pid: Pid, file: &str, value: &str) -> Result<(), Error> {
    put(&format!("/proc/{}/{file}", pid.as_raw_nonzero()), value)
}

/// Writes a file of this process.
pub(crate) fn write_self(file: &str, value: &str) -> Result<(), Error> {
    put(&format!("/proc/self/{file}"), value)
}

/// Opens a file of a process for reading.
pub(crate) fn open(pid: Pid, file: &str) -> Result<OwnedFd, Error> {
    open_with(&format!("/proc/{}/{file}", pid.as_raw_nonzero()), OFlags::RDONLY)
}

fn put(path: &str, value: &str) -> Result<(), Error> {
    let file = open_with(path, OFlags::WRONLY)?;
    rustix::io::write(&file, value.as_bytes())
        .map(drop)
        .map_err(at("write", format_args!("{:?} to {path}", value.trim_end())))
}

fn open_with(path: &str, flags: OFlags) -> Result<OwnedFd, Error> {
    let open = || rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    match open() {
        Err(Errno::NOENT) if !std::path::Path::new("/proc/self").exists() => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("proc", "/proc", "proc", flags, None).and_then(|()| open())
        }
        file => file,
    }
    .map_err(at("open", path))
}

/// The root directory of the process behind a descriptor.
pub(crate) fn root_of(pidfd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let pid = pid_of(pidfd)?.as_raw_nonzero();
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(at("open", path))
}

/// What tells a process from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Born {
    /// Clock ticks since the machine's boot.
    pub start_time: u64,
    /// It waits to be reaped.
    pub has_ended: bool,
}

/// The number of the process behind a descriptor, in this process's PID namespace.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Result<Pid, Error> {
    let info = format!("self/fdinfo/{}", pidfd.as_raw_fd());
    let file = open_with(&format!("/proc/{info}"), OFlags::RDONLY)?;
    let mut text = [0; 512];
    let count = rustix::io::read(&file, &mut text).map_err(at("read", &info))?;
    let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default());
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .and_then(Pid::from_raw)
        .ok_or_else(|| at("find the process of", info)(Errno::SRCH))
}

/// When a process began (proc(5), `/proc/PID/stat`); `None` when there is none of this number.
///
/// # Errors
/// [`Error::System`].
pub fn born(pid: Pid) -> Result<Option<Born>, Error> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let file = match rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => file.map_err(at("open", &path))?,
    };
    let mut text = [0; 1024];
    let count = match rustix::io::read(&file, &mut text) {
        Err(Errno::SRCH) => return Ok(None),
        count => count.map_err(at("read", &path))?,
    };
    let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default());
    Ok(parse(&text))
}

fn parse(stat: &str) -> Option<Born> {
    // The second field is the program's name, which may hold anything.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X" | "x");
    Some(Born { start_time: fields.nth(18)?.parse().ok()?, has_ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_matter() {
        let line = "7 (a) Z 1 (b) R 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4321 0 0 18446744073709551615";
        assert_eq!(parse(line), Some(Born { start_time: 4321, has_ended: false }));
        assert_eq!(parse("7 (a) Z 1"), None);
        let own = born(rustix::process::getpid()).unwrap().unwrap();
        assert!(own.start_time > 0 && !own.has_ended);
        assert_eq!(born(Pid::from_raw(i32::MAX).unwrap()).unwrap(), None);
    }
}
