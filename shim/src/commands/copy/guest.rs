//! The files of a microVM's container, by way of the image's own `tar` and `test`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Mutex, PoisonError},
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::Pid,
};
use serde_json::{Value, json};

use super::{file_error, tree::Kind};
use crate::{
    commands::{CommandError, exec::wait_for},
    lifecycle::{Container, LifecycleError},
    sandbox::{Exec, SandboxError, Spawned},
};

/// A running container in a microVM.
#[derive(Debug)]
pub(super) struct Guest {
    container: Mutex<Container>,
    process: Value,
}

impl Guest {
    /// The container with this OCI configuration.
    pub(super) fn new(container: Container, config: &Value) -> Self {
        let mut process = config.get("process").cloned().unwrap_or_else(|| json!({}));
        let bounding = process["capabilities"]["bounding"].clone();
        process["terminal"] = json!(false);
        process["cwd"] = json!("/");
        process["user"] = json!({ "uid": 0, "gid": 0 });
        process["capabilities"] =
            json!({ "bounding": bounding, "effective": bounding, "permitted": bounding });
        Self { container: Mutex::new(container), process }
    }

    /// Runs a program of the image as root, with these standard streams.
    fn run(
        &self,
        args: &[&str],
        stdin: &OwnedFd,
        stdout: &OwnedFd,
    ) -> Result<Spawned, CommandError> {
        let mut process = self.process.clone();
        process["args"] = json!(args);
        let swap = |stdin: &OwnedFd, stdout: &OwnedFd| -> io::Result<()> {
            rustix::stdio::dup2_stdin(stdin)?;
            rustix::stdio::dup2_stdout(stdout)?;
            Ok(())
        };
        let streams = || -> io::Result<[OwnedFd; 2]> {
            Ok([
                rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?,
                rustix::io::fcntl_dupfd_cloexec(io::stdout().as_fd(), 3)?,
            ])
        };
        let passing = || file_error("cannot pass standard streams on");
        let own = streams().map_err(passing())?;
        swap(stdin, stdout).map_err(passing())?;
        let exec = Exec { process: &process, preserve_fds: 0, cgroup: None };
        let spawned =
            self.container.lock().unwrap_or_else(PoisonError::into_inner).exec(&exec, false);
        swap(&own[0], &own[1]).map_err(passing())?;
        spawned.map_err(|error| match error {
            LifecycleError::Sandbox(SandboxError::ProgramNotFound(_)) => {
                CommandError::Unsupported(format!(
                    "the image has no {}, with which files are copied to and from a microVM",
                    args.first().unwrap_or(&"")
                ))
            }
            LifecycleError::ExecPaused => CommandError::State(
                "the container is paused, and files of a microVM can only be reached while it runs: unpause it first".into(),
            ),
            error => CommandError::Exec(error),
        })
    }

    fn test(&self, flag: &str, path: &str) -> Result<bool, CommandError> {
        let nothing = nothing()?;
        let spawned = self.run(&["test", flag, path], &nothing, &nothing)?;
        Ok(wait_for(spawned.pid)? == 0)
    }

    pub(super) fn kind(&self, path: &Path, follow: bool) -> Result<Option<Kind>, CommandError> {
        let text = text(path)?;
        if !follow && self.test("-L", text)? {
            return Ok(Some(Kind::Other));
        }
        if self.test("-d", text)? {
            return Ok(Some(Kind::Directory));
        }
        Ok(self.test("-e", text)?.then_some(Kind::Other))
    }

    /// Begins to pack what `path` leads to: where the archive comes from, and the process to wait for.
    pub(super) fn pack(&self, path: &Path, follow: bool) -> Result<(File, Pid), CommandError> {
        let parent = text(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".");
        let flags = if follow { "-chf" } else { "-cf" };
        let (from, to) = pipe()?;
        let words = ["tar", flags, "-", "-C", parent, "--", name];
        let spawned = self.run(&words, &nothing()?, &to)?;
        Ok((from.into(), spawned.pid))
    }

    /// Begins to unpack into a directory: where the archive goes, and the process to wait for.
    pub(super) fn unpack(&self, directory: &Path) -> Result<(File, Pid), CommandError> {
        let (from, to) = pipe()?;
        let words = ["tar", "-xf", "-", "-C", text(directory)?];
        let spawned = self.run(&words, &from, &nothing()?)?;
        Ok((to.into(), spawned.pid))
    }
}

/// Waits for the program that packs or unpacks.
pub(super) fn finish(pid: Pid) -> Result<(), CommandError> {
    match wait_for(pid)? {
        0 => Ok(()),
        code => Err(CommandError::State(format!("tar in the container failed with code {code}"))),
    }
}

fn text(path: &Path) -> Result<&str, CommandError> {
    path.to_str().ok_or_else(|| {
        CommandError::Usage(format!("{}: a path in a microVM must be UTF-8", path.display()))
    })
}

fn nothing() -> Result<OwnedFd, CommandError> {
    let file = File::options().read(true).write(true).open("/dev/null");
    file.map(OwnedFd::from).map_err(file_error("/dev/null"))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), CommandError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| file_error("cannot make a pipe")(error.into()))
}
