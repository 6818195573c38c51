//! Why a verb failed. The texts about states and names are runc's: tools look for them.

use std::{io, path::PathBuf};

use crate::sandbox::{ConfigError, SandboxError, Status};

/// Why a verb failed. Its text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// There is no container of this name.
    #[error("container does not exist")]
    NotFound,
    /// There is one already.
    #[error("container with given ID already exists")]
    Exists,
    /// The name has other characters than letters, digits, `_`, `+`, `,`, `-` and `.`, or is too long.
    #[error("invalid container ID format")]
    InvalidId,
    /// Only a container that was created can be started.
    #[error("{}", cannot_start(*.0))]
    NotCreated(Status),
    /// The call needs a running container.
    #[error("container not running")]
    NotRunning,
    /// The call needs a running container.
    #[error("container with id {0} is not running")]
    NotRunningNamed(String),
    /// The call needs a paused container.
    #[error("container not paused")]
    NotPaused,
    /// Nothing can join a container that has ended.
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    /// Nothing that joins a paused container could run.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    /// A container has to end before it is deleted.
    #[error("cannot delete container {id} that is not stopped: {}", status.name())]
    NotStopped {
        /// The container.
        id: String,
        /// What it does.
        status: Status,
    },
    /// Another verb works on it for too long.
    #[error("container {id} is busy: another command has worked on it for {seconds} s")]
    Busy {
        /// The container.
        id: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Nobody would remove what is made now.
    #[error("the container's owner has ended, and nothing is made for it")]
    Abandoned,
    /// The state file cannot be understood.
    #[error(
        "the state of container {id} is damaged: {path}: {message}; `delete --force {id}` removes it"
    )]
    Damaged {
        /// The container.
        id: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file of the container's state cannot be used.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The terminal could not be handed over.
    #[error("cannot send the terminal to console socket {path}: {source}")]
    Console {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The sandbox refused.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl LifecycleError {
    /// This error of a process's start in the words that docker, podman and containerd look for, to tell "not found" (their exit code
    /// 127) and "cannot be executed" (126) from other errors. `program`: the first of the process's arguments.
    #[must_use]
    pub fn of_process(&self, program: &str) -> String {
        let why = match self {
            LifecycleError::Sandbox(SandboxError::ProgramNotFound(text)) => {
                if text.contains("interpreter") {
                    "no such file or directory: the interpreter that it names is missing".to_owned()
                } else if program.contains('/') {
                    format!("stat {program}: no such file or directory")
                } else {
                    "executable file not found in $PATH".to_owned()
                }
            }
            LifecycleError::Sandbox(SandboxError::ProgramNotExecutable(text)) => {
                match text.strip_prefix(program).and_then(|rest| rest.strip_prefix(": ")) {
                    Some(why @ "it is a directory") => format!("permission denied: {why}"),
                    Some(why) if why.contains("neither a program") => {
                        format!("exec format error: {why}")
                    }
                    Some(why) => why.to_owned(),
                    None => text.clone(),
                }
            }
            other => return other.to_string(),
        };
        format!("unable to start container process: exec: {program:?}: {why}")
    }
}

fn cannot_start(status: Status) -> String {
    match status {
        Status::Stopped => "cannot start a container that has stopped".into(),
        Status::Running => "cannot start an already running container".into(),
        other => format!("cannot start a container in the {} state", other.name()),
    }
}

/// Adds what was tried to the kernel's reason.
pub(super) fn at<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> LifecycleError {
    move |source| LifecycleError::File { action, path: path.into(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_that_engines_look_for() {
        use SandboxError::{ProgramNotExecutable, ProgramNotFound};
        for (error, program, expected) in [
            (
                ProgramNotFound("x: y".into()),
                "x",
                "exec: \"x\": executable file not found in $PATH",
            ),
            (
                ProgramNotFound("/x: y".into()),
                "/x",
                "exec: \"/x\": stat /x: no such file or directory",
            ),
            (
                ProgramNotExecutable("/x: permission denied".into()),
                "/x",
                "exec: \"/x\": permission denied",
            ),
            (
                ProgramNotExecutable("/x: it is a directory".into()),
                "/x",
                "exec: \"/x\": permission denied: it is a directory",
            ),
        ] {
            let text = LifecycleError::from(error).of_process(program);
            assert_eq!(text, format!("unable to start container process: {expected}"));
        }
        let other = LifecycleError::Exists;
        assert_eq!(other.of_process("x"), other.to_string());
    }
}
