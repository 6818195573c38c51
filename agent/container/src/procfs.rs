//! Files of processes under the agent's `/proc`, which a guest mounts only when one of them is needed.

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

fn put(path: &str, value: &str) -> Result<(), Error> {
    let open = || rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let file = match open() {
        Err(Errno::NOENT) => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("proc", "/proc", "proc", flags, None).and_then(|()| open())
        }
        file => file,
    };
    let file = file.map_err(at("open", path))?;
    rustix::io::write(&file, value.as_bytes())
        .map(drop)
        .map_err(at("write", format_args!("{:?} to {path}", value.trim_end())))
}
